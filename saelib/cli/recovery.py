"""`saelib recovery`: how long an SAE would take to recover from a large mean, and what takes no time at all."""

from typing import Annotated, Any

import typer

from saelib.cli.show import show_rows, show_values

recovery_app = typer.Typer()

EVENTS = {
    "bias_50": "b_dec holds half of the mean",
    "bias_90": "b_dec holds 90 % of the mean",
    "bias_99": "b_dec holds 99 % of the mean",
    "revived": "less than 5 % of the latents are dead by ReLU",
}
ADVICE = (
    "Start b_dec at the geometric median of the activations instead: 0 steps. 'saelib diagnose ACTIVATIONS' prints the "
    "lines that do so in your library."
)


@recovery_app.command()
def recovery(
    gamma: Annotated[float, typer.Option(help="Severity ||mean|| / ||std||: gamma_raw of saelib stats.")],
    mu_norm: Annotated[float, typer.Option(help="||mean||, the norm of the mean of the activations.")],
    lr: Annotated[float, typer.Option("--lr", "--learning-rate", help="Constant learning rate of Adam.")],
    mu_inf: Annotated[
        float | None,
        typer.Option(help="Largest coordinate of the mean. Without it, one dimension holds the whole mean."),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Tokens of a step.")] = 4096,
    beta2: Annotated[float, typer.Option(help="Decay of Adam's second moment.")] = 0.999,
    d_in: Annotated[int, typer.Option(help="Dimensions of the activations.")] = 50,
    d_sae: Annotated[int, typer.Option(help="Latents of the SAE: only compared with the tested range.")] = 100,
    k: Annotated[
        int, typer.Option(help="Latents that are selected for each token: only compared with the tested range.")
    ] = 5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Predict how many steps a TopK SAE that starts at b_dec = 0 needs to recover from the mean of its activations.

    As long as latents carry the mean, others stay dead. Recovery moves the mean into b_dec, and can take hundreds of
    thousands of steps. The law behind the numbers was fitted to small SAEs on synthetic activations; low and high held
    nine in ten of the trainings that tested it. What lies outside of its tested range is named.

    Example: saelib recovery --gamma 20 --mu-norm 60 --lr 5e-4
    """
    from dataclasses import asdict

    from saelib.theory.recovery import ERRORS, recovery_steps

    found = recovery_steps(
        gamma, mu_norm, lr, mean_largest=mu_inf, batch_size=batch_size, beta2=beta2, d_in=d_in, d_sae=d_sae, k=k
    )
    if json:
        show_values(asdict(found) | {"errors": dict(ERRORS), "advice": ADVICE}, json)
        return
    show_rows([_row(event, getattr(found, event)) for event in EVENTS], json)
    typer.echo(f"\nLeast steps of any bias, ||mean||_inf / learning rate: {found.least:,.0f}.")
    if found.revived is None:
        typer.echo("The learning rate is so large for these activations that more latents are likely to stay dead.")
    elif found.revived == 0:
        typer.echo("At so small a gamma, less than 5 % of the latents are born dead by ReLU.")
    for sentence in found.outside:
        typer.echo(f"Extrapolated: {sentence}.")
    if found.outside:
        typer.echo("Read low and high with care: the error of an extrapolation is unknown, and often larger.")
    typer.echo(ADVICE)


def _row(event: str, steps: float | None) -> dict[str, Any]:
    """Makes a line of the table: steps to two digits, and the range that holds nine in ten trainings."""
    from saelib.theory.recovery import ERRORS

    if steps is None:
        return {"event": EVENTS[event], "steps": "not expected", "low": None, "high": None}
    error = ERRORS[event]
    numbers = {"steps": steps, "low": steps / (1 + error), "high": steps / (1 - error)}
    return {"event": EVENTS[event]} | {name: f"{float(f'{value:.2g}'):,.0f}" for name, value in numbers.items()}
