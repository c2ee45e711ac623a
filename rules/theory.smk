rule theory:
    input:
        SUITE.before("theory"),
    output:
        touch(f"{RUN}/done/theory/{{job}}"),
    log:
        f"{RUN}/logs/theory/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/theory/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("theory", "mem_mb"),
        runtime=SUITE.resource("theory", "runtime"),
    params:
        plan=f"{RUN}/plan.json",
    message:
        "predict death: {wildcards.job}"
    shell:
        "python scripts/theory.py --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
