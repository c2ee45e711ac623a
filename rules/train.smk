rule train:
    input:
        SUITE.before("train"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/train/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/train/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/train/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: SUITE.config.extraction.threads
    resources:
        mem_mb=lambda wildcards, attempt: 3000 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "train: {wildcards.job}"
    shell:
        "python scripts/train.py --plan {params.plan} --job {wildcards.job} --log {log}"
