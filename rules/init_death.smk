rule init_death:
    input:
        SUITE.before("init_death"),
    output:
        touch(f"{RESULTS}/.plan/{{run}}/init_death/{{job}}.done"),
    log:
        f"{RESULTS}/logs/{{run}}/init_death/{{job}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/{{run}}/init_death/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=lambda wildcards, attempt: 1500 * attempt,
    params:
        plan=f"{RESULTS}/.plan/{{run}}/plan.json",
    message:
        "count features born dead: {wildcards.job}"
    shell:
        "python scripts/init_death.py --plan {params.plan} --job {wildcards.job} --log {log}"
