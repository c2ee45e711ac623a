rule report:
    input:
        SUITE.before("report"),
    output:
        touch(f"{RUN}/done/report/{{job}}"),
    log:
        f"{RUN}/logs/report/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/report/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("report", "mem_mb"),
        runtime=SUITE.resource("report", "runtime"),
    params:
        script=SUITE.script("report"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("report"),
    message:
        "write tables, figures and page: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
