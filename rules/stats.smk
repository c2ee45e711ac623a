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
        gpu=SUITE.resource("stats", "gpu"),
    params:
        script=SUITE.script("stats"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("stats"),
    message:
        "measure gamma and rank: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
