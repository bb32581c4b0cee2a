"""The processor as data collators, scripts and servers made for other CTC models call it."""

import numpy as np
import pytest
import torch


@pytest.fixture
def features(processor, clips) -> list[dict]:
    return [{"input_features": processor(clip.waveform, sampling_rate=16_000)["input_features"][0]} for clip in clips[:3]]


def test_pad_of_a_data_collator(processor, clips, features):
    """`DataCollatorCTCWithPadding` of the documentation pads features and labels by two calls."""
    ids = [processor(text=clip.text)["input_ids"] for clip in clips[:3]]
    inputs = processor.pad(features, padding=True, return_tensors="pt")
    labels = processor.pad(labels=[{"input_ids": one} for one in ids], padding=True, return_tensors="pt")
    assert inputs["input_features"].shape == (3, max(len(one["input_features"]) for one in features), 161)
    assert inputs["attention_mask"].sum(1).tolist() == [len(one["input_features"]) for one in features]
    masked = labels["input_ids"].masked_fill(labels.attention_mask.ne(1), -100)
    assert [[i for i in row if i != -100] for row in masked.tolist()] == ids
    both = processor.pad(features, labels=[{"input_ids": one} for one in ids], return_tensors="pt")
    assert torch.equal(both["labels"], labels["input_ids"]) and torch.equal(both["input_features"], inputs["input_features"])
    with pytest.raises(ValueError, match="nothing to pad"):
        processor.pad()


def test_audio_and_text_are_padded_together(processor, clips):
    inputs = processor(
        [c.waveform for c in clips[:3]], [c.text for c in clips[:3]], sampling_rate=16_000, return_tensors="pt"
    )
    assert inputs["labels"].shape == (3, max(len(processor(text=clip.text)["input_ids"]) for clip in clips[:3]))
    assert processor.batch_decode(inputs["labels"], group_tokens=False) == [clip.text for clip in clips[:3]]
    texts = processor(text=[clip.text for clip in clips[:3]], return_tensors="np")
    assert np.array_equal(texts["input_ids"], inputs["labels"])
    assert [len(ids) for ids in processor(text=["a", "bcd"])["input_ids"]] == [1, 3]  # of a data set: not padded


def test_generate_and_batch_decode_give_the_best_path(processor, make_tiny_model, clips):
    """Servers made for other CTC models call `generate` and decode with `skip_special_tokens=True`."""
    model = make_tiny_model()
    inputs = processor([clip.waveform for clip in clips[:3]], sampling_rate=16_000, return_tensors="pt")
    ids = model.generate(**inputs)
    texts = processor.batch_decode(ids, skip_special_tokens=True)
    lengths = model.output_lengths(inputs["attention_mask"].sum(1)).tolist()
    for index, (clip, length) in enumerate(zip(clips, lengths)):
        alone = processor(clip.waveform, sampling_rate=16_000, return_tensors="pt")
        expected = model.generate(**alone, return_dict_in_generate=True)
        assert torch.equal(expected.sequences, expected.logits.argmax(-1))
        assert torch.equal(ids[index, :length], expected.sequences[0]) and (ids[index, length:] == 0).all()
        assert texts[index] == processor.decode(expected.sequences[0])
        if index == 2:
            break


def test_ids_of_frames_join_repeats_before_blanks_go(processor):
    """skip_special_tokens must not make "ofice" of "office"; padding of `Trainer` (-100) counts as blank."""
    tokenizer = processor.tokenizer
    blank, ids = tokenizer.pad_token_id, {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "office"}
    frames = [ids["o"], ids["o"], ids["f"], blank, ids["f"], ids["i"], blank, ids["c"], ids["e"], blank]
    for skip in (False, True):
        assert tokenizer.decode(frames, skip_special_tokens=skip) == "office"
        padded = np.array([frames + [-100] * 3, [-100] * 13])
        assert tokenizer.batch_decode(padded, skip_special_tokens=skip) == ["office", ""]
    offsets = tokenizer.decode(frames, skip_special_tokens=True, output_char_offsets=True).char_offsets
    assert [(o["char"], o["start_offset"]) for o in offsets][:3] == [("o", 0), ("f", 2), ("f", 4)]
    with pytest.raises(ValueError, match=r"found \[-3, 29\], expected 0 to 28"):
        tokenizer.decode([3, 29, -3])
