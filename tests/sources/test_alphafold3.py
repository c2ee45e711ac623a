"""AlphaFold 3's files: the inputs written for its program and the outputs read from it, in the layouts of its versions.

The program itself is not here. A stand-in reads the same input and writes the same output; its embeddings are a
function of the sequence alone.
"""

import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from saelib.config.sources import AlphaFold3Source
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.alphafold3 import job_name, write_inputs

# As the program does it: a folder a job, in it one a seed. 3.0.2 and later crop and round, 3.0.1 pads to 256 tokens.
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np

inputs, outputs, layout = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
print("folding into", outputs)
with open("calls.txt", "a") as calls:
    calls.write(f"{len(list(inputs.glob('*.json')))}\\n")
if layout == "fails":
    print("out of memory", file=sys.stderr)
    sys.exit(3)
for path in sorted(inputs.glob("*.json")):
    job = json.loads(path.read_text())
    assert set(job) == {"name", "modelSeeds", "sequences", "dialect", "version"} and job["dialect"] == "alphafold3"
    [chain] = job["sequences"]
    protein = chain["protein"]
    # Empty strings: without alignments. Left out or null, the program would search for them.
    assert protein["unpairedMsa"] == protein["pairedMsa"] == "" and protein["templates"] == [] and protein["id"]
    single = (np.frombuffer(protein["sequence"].encode(), np.uint8)[:, None] + np.arange(384)) / 7
    name = job["name"].lower() if layout == "3.0.1" else job["name"]
    for seed in job["modelSeeds"]:
        folder = outputs / name / f"seed-{seed}_embeddings"
        folder.mkdir(parents=True)
        if layout == "3.0.1":
            padded = np.vstack([single, np.full((256 - len(single), 384), np.nan)]).astype(np.float32)
            np.savez(folder / "embeddings.npz", single_embeddings=padded, pair_embeddings=np.zeros((2, 2, 128)))
        elif layout == "now":
            arrays = {"single_embeddings": single.astype(np.float16), "pair_embeddings": np.zeros((2, 2, 128))}
            np.savez_compressed(folder / f"{name}_seed-{seed}_embeddings.npz", **arrays)
"""
PROTEINS = ("MKVLAAGW", "ACDEFGHIKLMNPQRSTVWY", "mkx")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def config(folder, layout=None, **options):
    command = (sys.executable, "program.py", "{input_dir}", "{output_dir}", layout) if layout else ()
    paths = {"inputs": folder / "inputs", "outputs": folder / "outputs"}
    return AlphaFold3Source(family="alphafold3", **paths, **({"command": command} | options))


def proteins(*sequences):
    return [Example(f"record-{i}", f"record-{i}", sequence) for i, sequence in enumerate(sequences)]


def single(sequence):
    return (np.frombuffer(sequence.upper().encode(), np.uint8)[:, None] + np.arange(384)) / 7


def save(folder, sequence, name="{job}/seed-1_embeddings/{job}_seed-1_embeddings.npz", **arrays):
    path = folder / "outputs" / name.format(job=job_name(sequence))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **(arrays or {"single_embeddings": single(sequence).astype(np.float16)}))
    return path


@pytest.mark.parametrize(("layout", "tolerance"), [("now", 2e-3), ("3.0.1", 1e-6)])
def test_the_command_is_run_on_what_is_missing_and_its_arrays_are_read(folder, caplog, layout, tolerance):
    source = open_source(config(folder, layout))
    with caplog.at_level(logging.INFO):
        acts = source.forward(proteins(*PROTEINS), [0])
    assert (source.n_layers, source.d_in(0), acts.tokens_per_example) == (0, 384, [8, 20, 3])
    assert acts.layers[0].dtype == np.float32
    np.testing.assert_allclose(acts.layers[0], np.vstack([single(one) for one in PROTEINS]), rtol=tolerance)
    assert f"AlphaFold 3: folding into {folder / 'outputs'}" in caplog.text
    again = source.forward(proteins("WWW", *PROTEINS, "WWW"), [0])
    assert again.tokens_per_example == [3, 8, 20, 3, 3]
    np.testing.assert_array_equal(again.layers[0][3:-3], acts.layers[0])
    assert (folder / "calls.txt").read_text().split() == ["3", "1"]  # jobs of each run: none is computed twice
    assert list((folder / "inputs").iterdir()) == []


def test_batches_change_nothing(folder):
    source = open_source(config(folder, "now"))
    together = source.forward(proteins(*PROTEINS), [0]).layers[0]
    alone = [source.forward([one], [0]).layers[0] for one in proteins(*PROTEINS)]
    np.testing.assert_array_equal(together, np.concatenate(alone))


def test_without_a_command_the_inputs_are_written_and_the_message_says_what_to_do(folder):
    source = open_source(config(folder))
    with pytest.raises(UserError) as raised:
        source.forward(proteins(*PROTEINS), [0])
    message = str(raised.value)
    paths = f"--input_dir={folder / 'inputs'} --output_dir={folder / 'outputs'}"
    flags = ("--save_embeddings=true", "--run_data_pipeline=false", "--num_recycles=1")
    for part in ("3 of 3 proteins", "3 files wait", paths, *flags):
        assert part in message
    files = list((folder / "inputs").iterdir())
    assert sorted(file.stem for file in files) == sorted(map(job_name, map(str.upper, PROTEINS)))
    subprocess.run([sys.executable, "program.py", "inputs", "outputs", "now"], check=True, capture_output=True)
    acts = source.forward(proteins(*PROTEINS), [0])
    np.testing.assert_allclose(acts.layers[0], np.vstack([single(one) for one in PROTEINS]), rtol=2e-3)


def test_write_inputs_keeps_what_is_left_to_compute(folder):
    settings = config(folder, max_length=20)
    examples = proteins("MKV", "ACD", "acd", "W" * 21)
    assert write_inputs(settings, iter(examples)) == 2
    paths = {one: folder / "inputs" / f"{job_name(one)}.json" for one in ("MKV", "ACD")}
    assert sorted((folder / "inputs").iterdir()) == sorted(paths.values())
    assert json.loads(paths["MKV"].read_text()) == {
        "name": paths["MKV"].stem, "modelSeeds": [1], "dialect": "alphafold3", "version": 1,
        "sequences": [
            {"protein": {"id": "A", "sequence": "MKV", "unpairedMsa": "", "pairedMsa": "", "templates": []}}
        ],
    }  # fmt: skip
    save(folder, "MKV")
    assert write_inputs(settings, proteins("ACD")) == 1
    assert list((folder / "inputs").iterdir()) == [paths["ACD"]]
    assert write_inputs(settings, proteins("MKV")) == 0


def test_names_survive_every_version_of_the_program():
    """3.0.1 makes names lower case and drops what is neither letter, digit, `_`, `-` nor `.`."""
    names = {job_name(first + second) for first in "ACDEFGHIKL" for second in "MNPQRSTVWY"}
    assert len(names) == 100
    assert all(name == name.lower() and name.replace("_", "").isalnum() for name in names)


def test_long_proteins_have_no_tokens_and_need_no_file(folder):
    source = open_source(config(folder, max_length=5))
    save(folder, "MKV")
    acts = source.forward(proteins("W" * 6, "MKV", "Y" * 9), [0])
    assert acts.tokens_per_example == [0, 3, 0]
    np.testing.assert_allclose(acts.layers[0], single("MKV"), rtol=2e-3)
    assert source.forward(proteins("W" * 6), [0]).layers[0].shape == (0, 384)


def test_a_second_run_on_a_job_counts(folder):
    """The program leaves the folder of the first, here without embeddings, and adds the time to the second's name."""
    (folder / "outputs" / job_name("MKV")).mkdir(parents=True)
    old = np.zeros((3, 384), np.float16)
    save(folder, "MKV", "{job}_20260101_120000/seed-1_embeddings/{job}_seed-1_embeddings.npz", single_embeddings=old)
    save(folder, "MKV", "{job}_20260102_110000/seed-1_embeddings/{job}_seed-1_embeddings.npz")
    acts = open_source(config(folder)).forward(proteins("MKV"), [0])
    np.testing.assert_allclose(acts.layers[0], single("MKV"), rtol=2e-3)


@pytest.mark.parametrize(
    "arrays",
    [
        {"pair_embeddings": np.zeros((3, 3, 128))},
        {"single_embeddings": np.zeros((4, 384), np.float16)},  # of another protein: this layout has no padding
        {"single_embeddings": np.zeros((2, 384), np.float16)},
        {"single_embeddings": np.zeros((3, 128), np.float16)},
        {"single_embeddings": np.zeros((3, 384), np.int32)},
        {"single_embeddings": np.zeros(3, np.float16)},
        {"single_embeddings": np.array([print] * 3)},  # pickled
    ],
)
def test_foreign_arrays_are_refused(folder, arrays):
    path = save(folder, "MKV", **arrays)
    with pytest.raises(UserError, match=f"^{path}"):
        open_source(config(folder)).forward(proteins("MKV"), [0])


def test_padded_arrays_that_are_too_short_are_refused(folder):
    path = save(folder, "MKV", "{job}/seed-1_embeddings/embeddings.npz", single_embeddings=np.zeros((2, 384)))
    with pytest.raises(UserError, match=f"^{path}: single_embeddings is float64"):
        open_source(config(folder)).forward(proteins("MKV"), [0])


def test_files_that_are_cut_or_no_npz_are_refused(folder):
    path = save(folder, "MKV")
    whole = path.read_bytes()
    middle = len(whole) // 2
    damaged = whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]
    for content in (b"", b"garbage", whole[:-200], whole[: len(whole) // 3], damaged):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"^{path}: not AlphaFold 3's embeddings"):
            open_source(config(folder)).forward(proteins("MKV"), [0])
    with path.open("wb") as file:
        np.save(file, np.zeros((3, 384)))
    with pytest.raises(UserError, match=f"^{path}: not AlphaFold 3's embeddings"):
        open_source(config(folder)).forward(proteins("MKV"), [0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "fails"}, r"ended with 3\. Its last output:\nfolding into .*\nout of memory"),
        ({"layout": "silent"}, "command succeeded, but left no embeddings of saelib_"),
        ({"command": ("/no/such", "{input_dir}", "{output_dir}")}, "command '/no/such' cannot be run"),
        ({"command": ("program", "--json={input_dir}")}, r"command has no \{output_dir\}"),
    ],
)
def test_commands_that_fail_say_why(folder, options, message):
    with pytest.raises(UserError, match=message):
        open_source(config(folder, **options)).forward(proteins("MKV"), [0])
    assert not list(folder.glob("inputs/*"))


def test_braces_of_other_arguments_stay(folder):
    command = (sys.executable, "program.py", "{input_dir}", "{output_dir}", "now", '{"a": 1}')
    assert open_source(config(folder, command=command)).forward(proteins("MKV"), [0]).tokens_per_example == [3]


def test_only_layer_0_and_only_letters(folder):
    source = open_source(config(folder))
    for layer in (1, -1):
        with pytest.raises(UserError, match=f"has no layer {layer}.* representation, layer 0"):
            source.forward(proteins("MKV"), [0, layer])
    for letters in ("MK*", "MK-V", "MKÄ", ""):
        with pytest.raises(UserError, match="example 'record-0' holds"):
            source.forward(proteins(letters), [0])
    with pytest.raises(UserError, match="reads text, but example 'a' is an image"):
        source.forward([Example("a", "a", np.zeros((2, 2, 3), np.uint8))], [0])
