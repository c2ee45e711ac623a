rule report:
    input:
        SUITE.before("report"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/report/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/report/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/report/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 2000 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "tables, figures and page: {wildcards.job}"
    shell:
        "python scripts/report.py --plan {params.plan} --job {wildcards.job} --log {log}"
