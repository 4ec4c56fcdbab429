"""The client in 30 lines. Start `cifar-serve`, then: python examples/quickstart.py [IMAGE ...]"""

import os
import sys
from collections import Counter
from pathlib import Path

from clients import Client, ImageError, errors

ship = str(Path(__file__).parents[1] / "docs" / "ship.png")
paths = sys.argv[1:] or [ship]
url = os.environ.get("CIFAR_URL", "http://127.0.0.1:8000")

with Client(url, api_key=os.environ.get("CIFAR_API_KEY"), deadline_s=60) as client:
    # One image: a path, encoded bytes or a PIL image.
    prediction = client.predict(paths[0])
    print(f"{prediction.label}, says {prediction.model} {prediction.version}:")
    for each in prediction.top(3):
        print(f"  {each.label:12} {each.probability:.1%}")

    # A stream of any length, in constant memory: answers come in order, and a bad image does not end it.
    counts: Counter[str] = Counter()
    for answer in client.predict_many([*paths * 100, "missing.png"], progress=True):
        counts[answer.code if isinstance(answer, ImageError) else answer.label] += 1
    print(dict(counts))

    # Each kind of failure has its own exception: clients/errors.py lists them all.
    try:
        client.predict(b"not an image")
    except errors.InvalidImage as error:
        print(error.code, error.detail, sep=": ")
