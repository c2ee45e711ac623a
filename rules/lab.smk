rule lab:
    input:
        SUITE.before("lab"),
    output:
        touch(f"{RUN}/done/lab/{{job}}"),
    log:
        f"{RUN}/logs/lab/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/lab/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("lab", "mem_mb"),
        runtime=SUITE.resource("lab", "runtime"),
    params:
        script=SUITE.script("lab"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("lab"),
    message:
        "run cells of an experiment: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
