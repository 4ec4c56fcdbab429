"""The results of an evaluation for people: a page of text, a comparison of two services, a picture."""

import io
from collections.abc import Iterator
from typing import Any

_LARGEST_MATRIX = 12  # classes that fit beside each other in 80 columns
_LARGEST_NAMED = 40  # classes that a picture has room to name
_WIDEST = 4000  # pixels a side, of a picture of more classes than it names
_REFUSED_SHOWN = 5
_BLUE = (31, 95, 168)


def as_text(scores: dict[str, Any]) -> Iterator[str]:
    """The lines of a page: the overall figures, the classes with their confusion, and what was refused."""
    low, high = scores["interval"]
    latencies = ", ".join(f"{name} {seconds * 1000:.0f} ms" for name, seconds in scores["latency_s"].items())
    right = f"{scores['correct']:,} of {scores['n']:,}"
    yield f"model      {', '.join(scores['models']) or 'unknown: it refused every image'}"
    yield f"accuracy   {scores['accuracy']:.2%} ({right}; 95 % interval {low:.2%} to {high:.2%})"
    yield f"speed      {scores['images_per_s']:,.0f} images/s ({scores['n']:,} in {scores['seconds']:.2f} s)"
    yield f"latency    {latencies} for a request"
    if len(scores["models"]) > 1:
        yield "warning: more than one model answered, so these figures belong to none of them"
    yield from ("", *_class_lines(scores))
    refused = [f"  {each['file']}: {each['error']['detail']}" for each in scores["predictions"] if "error" in each]
    if refused:
        yield from ("", f"refused    {len(refused):,}, counted as wrong:", *refused[:_REFUSED_SHOWN])
    if len(refused) > _REFUSED_SHOWN:
        yield f"  and {len(refused) - _REFUSED_SHOWN:,} more"


def _class_lines(scores: dict[str, Any]) -> Iterator[str]:
    """A line per class and, where there are few enough classes, its row of the confusion matrix."""
    name_width = max(map(len, ["class", *scores["per_class"]]))
    width = max(4, *(len(str(count)) for row in scores["confusion"] for count in row))
    heads = "".join(f" {label[:width]:>{width}}" for label in scores["classes"])
    matrix = len(scores["classes"]) <= _LARGEST_MATRIX
    yield f"{'class':{name_width}}      n accuracy" + f"  as{heads}" * matrix
    for truth, row in zip(scores["classes"], scores["confusion"], strict=True):
        if found := scores["per_class"].get(truth):
            counts = "".join(f" {count:{width}}" for count in row)
            yield f"{truth:{name_width}} {found['n']:6,} {found['accuracy']:8.2%}" + f"    {counts}" * matrix


def verdict(scores: dict[str, Any]) -> Iterator[str]:
    """The lines that compare `scores` with those of the other service, `scores["against"]`."""
    other, found = scores["against"], scores["comparison"]
    points = 100 * (scores["accuracy"] - other["accuracy"])
    p = "p < 0.001" if found["p"] < 0.001 else f"p = {found['p']:.3f}"
    chance = "more" if found["more_than_chance"] else "no more"
    yield ""
    yield f"against    {other['accuracy']:.2%} of {other['service']}, {', '.join(other['models'])}"
    alone = f"{found['only_this']:,} images only this service got right, {found['only_against']:,} only the other"
    yield f"alone      {alone}"
    yield f"verdict    a difference of {points:+.2f} points: {chance} than chance explains (McNemar's test, {p})"


def draw_confusion(scores: dict[str, Any]) -> bytes:
    """The confusion matrix as a PNG: true classes down, predicted ones across, darker for more of a true class."""
    from PIL import Image, ImageDraw, ImageFont

    classes, named = scores["classes"], len(scores["classes"]) <= _LARGEST_NAMED
    side = max(1, min(8, _WIDEST // len(classes)))
    wide, high, left, top = (76, 40, 100, 40) if named else (side, side, 0, 0)
    picture = Image.new("RGB", (left + wide * len(classes), top + high * len(classes)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(13)
    for row, counts in enumerate(scores["confusion"]):
        y = top + row * high
        if named:
            draw.text((left - 8, y + high / 2), classes[row][:12], "black", font, anchor="rm")
            draw.text((left + (row + 0.5) * wide, top / 2), classes[row][:10], "black", font, anchor="mm")
        for column, count in enumerate(counts):
            if not count:  # nearly all, of many classes: they stay white
                continue
            x, share = left + column * wide, (count / sum(counts)) ** 0.5  # the square root shows rare mistakes
            colour = tuple(round(255 + (blue - 255) * share) for blue in _BLUE)
            draw.rectangle((x, y, x + wide - 1, y + high - 1), colour)
            if named:
                ink = "white" if share > 0.6 else "black"
                draw.text((x + wide / 2, y + high / 2), str(count), ink, font, anchor="mm")
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
