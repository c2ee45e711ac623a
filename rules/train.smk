rule train:
    input:
        SUITE.before("train"),
    output:
        touch(f"{RUN}/done/train/{{job}}"),
    log:
        f"{RUN}/logs/train/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/train/{{job}}.tsv"
    conda:
        SUITE.environment("train")
    threads: SUITE.threads("train")
    resources:
        mem_mb=SUITE.resource("train", "mem_mb"),
        runtime=SUITE.resource("train", "runtime"),
        gpu=SUITE.resource("train", "gpu"),
    params:
        script=SUITE.script("train"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("train"),
        python=SUITE.python("train"),
    message:
        "train: {wildcards.job} ({params.why})"
    shell:
        "{params.python:q} {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
