rule stats:
    input:
        SUITE.before("stats"),
    output:
        touch(f"{RUN}/done/stats/{{job}}"),
    log:
        f"{RUN}/logs/stats/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/stats/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("stats", "mem_mb"),
        runtime=SUITE.resource("stats", "runtime"),
    params:
        plan=f"{RUN}/plan.json",
    message:
        "measure gamma and rank: {wildcards.job}"
    shell:
        "python scripts/stats.py --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
