rule features:
    input:
        SUITE.before("features"),
    output:
        touch(f"{RUN}/done/features/{{job}}"),
    log:
        f"{RUN}/logs/features/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/features/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("features", "mem_mb"),
        runtime=SUITE.resource("features", "runtime"),
    params:
        script=SUITE.script("features"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("features"),
    message:
        "write pages of latents: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
