rule init_death:
    input:
        SUITE.before("init_death"),
    output:
        touch(f"{RUN}/done/init_death/{{job}}"),
    log:
        f"{RUN}/logs/init_death/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/init_death/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("init_death", "mem_mb"),
        runtime=SUITE.resource("init_death", "runtime"),
        gpu=SUITE.resource("init_death", "gpu"),
    params:
        script=SUITE.script("init_death"),
        plan=f"{RUN}/plan.json",
        why=SUITE.why("init_death"),
    message:
        "count latents born dead: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
