rule extract:
    input:
        SUITE.before("extract"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/extract/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/extract/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/extract/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: SUITE.config.extraction.threads
    resources:
        mem_mb=lambda wildcards, attempt: 6000 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "extract activations: {wildcards.job}"
    shell:
        "python scripts/extract.py --plan {params.plan} --job {wildcards.job} --log {log}"
