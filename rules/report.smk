rule report:
    input:
        SUITE.before("report"),
    output:
        touch(f"{RUN}/done/report/{{job}}"),
        # Copies for `snakemake --report`: Snakemake removes what a rule writes before a job, and results must stay.
        figures=report(
            directory(f"{RUN}/shown/{{job}}/figures"),
            patterns=["{name}.png"],
            caption="captions/figures.rst",
            category="Figures",
            labels={"figure": "{name}"},
        ),
        tables=report(
            directory(f"{RUN}/shown/{{job}}/tables"),
            patterns=["{name}.csv"],
            caption="captions/tables.rst",
            category="Tables",
            labels={"table": "{name}"},
        ),
    log:
        f"{RUN}/logs/report/{{job}}.log",
    benchmark:
        f"{RUN}/benchmarks/report/{{job}}.tsv"
    conda:
        "../envs/saelib.yaml"
    threads: 1
    resources:
        mem_mb=SUITE.resource("report", "mem_mb"),
        runtime=SUITE.resource("report", "runtime"),
    params:
        script=SUITE.script("report"),
        plan=f"{RUN}/plan.json",
        results=lambda wildcards: SUITE.results,
        why=SUITE.why("report"),
    message:
        "write tables, figures and page: {wildcards.job} ({params.why})"
    shell:
        "python {params.script:q} --plan {params.plan:q} --job {wildcards.job} --log {log:q}"
        " && cp -R {params.results:q}/figures/. {output.figures:q}"
        " && cp -R {params.results:q}/tables/. {output.tables:q}"
