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
        "../envs/saelib.yaml"
    threads: SUITE.config.train.threads
    resources:
        mem_mb=SUITE.resource("train", "mem_mb"),
        runtime=SUITE.resource("train", "runtime"),
        gpu=SUITE.resource("train", "gpu"),
    params:
        plan=f"{RUN}/plan.json",
    message:
        "train: {wildcards.job}"
    shell:
        "python scripts/train.py --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
