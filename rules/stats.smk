rule stats:
    input:
        SUITE.before("stats"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/stats/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/stats/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/stats/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "measure gamma and rank: {wildcards.job}"
    shell:
        "python scripts/stats.py --plan {params.plan} --job {wildcards.job} --log {log}"
