rule evaluate:
    input:
        SUITE.before("evaluate"),
    output:
        touch(f"{RUN}/done/evaluate/{{job}}"),
    log:
        f"{RUN}/logs/evaluate/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/evaluate/{{job}}.tsv"
    conda:
        SUITE.environment("evaluate")
    threads: SUITE.threads("evaluate")
    resources:
        mem_mb=SUITE.resource("evaluate", "mem_mb"),
        runtime=SUITE.resource("evaluate", "runtime"),
        gpu=SUITE.resource("evaluate", "gpu"),
    params:
        script=SUITE.script("evaluate"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("evaluate"),
        python=SUITE.python("evaluate"),
    message:
        "evaluate SAEs: {wildcards.job} ({params.why})"
    shell:
        "{params.python:q} {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
