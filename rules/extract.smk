rule extract:
    input:
        SUITE.before("extract"),
    output:
        touch(f"{RUN}/done/extract/{{job}}"),
    log:
        f"{RUN}/logs/extract/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/extract/{{job}}.tsv"
    # Extractions start first, because all other jobs wait for them.
    priority: 10
    conda:
        SUITE.environment("extract")
    threads: SUITE.threads("extract")
    resources:
        mem_mb=SUITE.resource("extract", "mem_mb"),
        runtime=SUITE.resource("extract", "runtime"),
        gpu=SUITE.resource("extract", "gpu"),
    params:
        script=SUITE.script("extract"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("extract"),
        python=SUITE.python("extract"),
    message:
        "extract activations: {wildcards.job} ({params.why})"
    shell:
        "{params.python:q} {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
