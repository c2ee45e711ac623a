rule theory:
    input:
        SUITE.before("theory"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/theory/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/theory/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/theory/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 600 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "predict death: {wildcards.job}"
    shell:
        "python scripts/theory.py --plan {params.plan} --job {wildcards.job} --log {log}"
