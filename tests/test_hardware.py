"""Words for data types and for devices: each meaning is said once, and texts are understood by it."""

import re

import pytest

from afdjax.hardware.accelerator import Accelerator, Link
from afdjax.hardware.device_names import WITHOUT_DATA_SHEET, accelerator_named_in, device_named_in, without_device
from afdjax.hardware.files import load_accelerator, shipped_accelerators, shipped_documents
from afdjax.hardware.formats import (
    BLOCK_SCALED,
    BY_WORD,
    DATA_TYPES,
    FORMATS,
    MEASURED_AS,
    SIZES,
    STORED_AS,
    WIDER,
    arithmetic_of,
    bytes_of,
)


def test_each_word_names_one_data_type():
    words = [word for kind in DATA_TYPES for word in kind.words]
    assert len(words) == len(set(words)) == len(BY_WORD)
    # what another name stands for is a name itself, and stands for itself
    for names in (STORED_AS, MEASURED_AS):
        assert all(names[name] == name for name in names.values())
    assert set(BLOCK_SCALED) == {name for name in FORMATS if bytes_of(name) < 1.0}


def test_a_format_has_the_size_of_all_that_is_stored_as_it():
    for word, stored in STORED_AS.items():
        assert SIZES[word] == bytes_of(stored)
    with pytest.raises(ValueError, match="`cache` must be one of bf16, fp8, int8, nvfp4, mxfp4, but it is float"):
        bytes_of("float", "cache")


def test_operands_run_as_the_fastest_arithmetic_that_a_device_has():
    link = Link(1e9, 1e-6, 8.0)
    part = Accelerator(1.0, 1.0, {"bf16": 1.0, "fp8": 2.0, "int8": 3.0}, link, link)
    rates = {"bf16": 1.0, "half": 1.0, "fp8_block": 2.0, "nvfp4": 2.0, "mxfp4": 2.0, "w4a16_mxfp4": 1.0, "int8": 3.0}
    assert {word: float(part.operations(word)) for word in rates} == rates
    # all there is, the narrowest first, where nothing is known of the operands
    assert arithmetic_of(None) == arithmetic_of("float32") == arithmetic_of("unheard of") == tuple(WIDER)
    assert float(part.operations(None)) == 2.0


@pytest.mark.parametrize("name", sorted(shipped_documents()))
def test_every_name_and_alias_of_a_shipped_accelerator_is_understood_in_a_text(name):
    part = load_accelerator(name)
    for text in (name, f"vendor {name.upper()} board", f"x_{name}_y.csv", name.replace("-", "_")):
        found = accelerator_named_in(text)
        assert found is not None and found.name == part.name
        assert device_named_in(text) == shipped_documents()[name].get("device", part.name)
    assert without_device(f"{name}_Llama-3.1-405B") == "Llama-3.1-405B"


def test_what_timings_call_a_device_is_one_of_its_names():
    for document in shipped_documents().values():
        device = document.get("device", document["name"])
        assert device in {document["name"], *document["aliases"]} or device in shipped_accelerators()
        # a preset is the part that it is a preset of
        assert device_named_in(device) == device


@pytest.mark.parametrize("name", WITHOUT_DATA_SHEET)
def test_parts_without_a_data_sheet_have_a_name(name):
    assert device_named_in(f"NVIDIA {name.upper()} 480GB") == name
    assert accelerator_named_in(name) is None and name not in shipped_documents()


@pytest.mark.parametrize("text", ["", "xh1000", "h100user", "a CPU"])
def test_a_text_may_name_no_device(text):
    assert device_named_in(text) is None and accelerator_named_in(text) is None and without_device(text) == text


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            '{"base": "h20", "scale_out": {"bandwidth": 1}}',
            "field 'scale_out': has no 'bandwidth', but gb_per_s, devices",
        ),
        ('{"base": "h20", "memory": 141}', "has no 'memory' (did you mean memory_gib?), but schema, name"),
        ('{"base": "h20", "memory_gib": 141}', 'field \'memory_gib\': must be {"value": ..., "source": "..."}'),
        ("{}", "must have the field 'base', the shipped part that it changes"),
    ],
)
def test_a_file_of_an_accelerator_says_what_its_fields_are(tmp_path, content, said):
    (tmp_path / "mine.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(said)):
        load_accelerator(tmp_path / "mine.json")
