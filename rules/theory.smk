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
        script=SUITE.script("theory"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("theory"),
    message:
        "predict death: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
