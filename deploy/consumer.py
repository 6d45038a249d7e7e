"""A program that uses the release in use, and follows when that changes: ``python consumer.py ~/edgeprune/PRODUCT``.

All files are opened below the folder that ``current`` leads to, found once: they are of one release, even while another comes.  Between
inferences the link is looked at; a release that cannot be loaded is reported, and the program stays with the one it has.
"""

import argparse
import json
import os
import sys
import time


def load_interpreter(path):
    """An interpreter of whichever runtime is there."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        from tflite_runtime.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


class Release:
    """One release, loaded: ``identity`` (its folder, and which file is there), ``about`` (its release.json), ``labels``, and the
    interpreter of its model."""

    def __init__(self, folder):
        self.identity = identity_of(folder)
        with open(os.path.join(folder, "release.json"), encoding="utf-8") as file:
            self.about = json.load(file)
        self.labels = []
        if "labels.txt" in self.about["files"]:
            with open(os.path.join(folder, "labels.txt"), encoding="utf-8") as file:
                self.labels = file.read().splitlines()
        self.decoding = {}  # how outputs become answers, where the release says so
        if "preprocessing.json" in self.about["files"]:
            with open(os.path.join(folder, "preprocessing.json"), encoding="utf-8") as file:
                self.decoding = json.load(file).get("decoding", {})
        self.interpreter = load_interpreter(os.path.join(folder, self.about["model"]))
        self.answer(self.zeros())  # what does not run is not adopted

    def outputs(self, values):
        """The model's outputs, as real numbers, for one input, an array of the model's shape and type."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], values)
        self.interpreter.invoke()
        found = []
        for details in self.interpreter.get_output_details():
            value, (scale, zero) = self.interpreter.get_tensor(details["index"]), details["quantization"]
            found.append((value.astype("float32") - zero) * scale if scale else value)
        return found

    def classify(self, values):
        """The index of the greatest output for one input."""
        return int(self.outputs(values)[0].argmax())

    def answer(self, values):
        """What is seen in one input: boxes of a detector, pixels of each class of a segmentation, or else a class."""
        outputs = self.outputs(values)
        if self.decoding.get("kind") == "detection":
            return {"boxes": [dict(box, label=self.name(box["class"])) for box in detected(outputs, self.decoding)]}
        if outputs[0].ndim == 4:
            _, counts = segmented(outputs[0])
            return {"pixels": {self.name(index) or str(index): count for index, count in counts.items()}}
        index = int(outputs[0].argmax())
        return {"class": index, "label": self.name(index)}

    def name(self, index):
        """The label of a class, None where there is none."""
        return self.labels[index] if index < len(self.labels) else None

    def zeros(self):
        """An input of zeros."""
        import numpy

        details = self.interpreter.get_input_details()[0]
        return numpy.zeros(details["shape"], details["dtype"])


def segmented(scores):
    """The class of every pixel, (height, width), of scores (1, classes, height, width), and how many pixels each class has."""
    import numpy

    labels = scores[0].argmax(0)
    found, counts = numpy.unique(labels, return_counts=True)
    return labels, {int(index): int(count) for index, count in zip(found, counts)}


def detected(outputs, decoding):
    """The boxes in one image, best first: dicts of ``box`` (x1, y1, x2, y2 in pixels), ``score`` and ``class``.

    ``outputs``: of the network, (1, A, ...) each. ``decoding``: what the file's metadata says of them.
    """
    import numpy

    named = {name: value[0].astype("float32") for name, value in zip(decoding["outputs"], outputs)}
    boxes = named["boxes"] if "anchors" not in decoding else decoded(named["boxes"], decoding)
    height, width = decoding["image_size"]
    boxes = numpy.clip(boxes, 0, [width, height, width, height])
    places, classes, scores = candidates(scored(named, decoding["activation"]), decoding)
    kept = []
    for index in numpy.unique(classes):
        own = numpy.flatnonzero(classes == index)
        kept += [own[best] for best in suppressed(boxes[places[own]], scores[own], decoding["overlap"])]
    kept = sorted(kept, key=lambda place: -scores[place])[: decoding["most"]]
    first = decoding["first_label"]
    return [{"box": boxes[places[at]].tolist(), "score": float(scores[at]), "class": int(classes[at]) + first} for at in kept]


def scored(named, activation):
    """The scores of all classes at every place, (A, classes), without a background."""
    import numpy

    def sigmoid(values):
        return 1 / (1 + numpy.exp(-values))

    logits = named["logits"]
    if activation == "sigmoid":
        found = sigmoid(logits)
        return numpy.sqrt(found * sigmoid(named["centerness"])) if "centerness" in named else found
    shares = numpy.exp(logits - logits.max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    return shares[:, 1:] if activation == "softmax" else sigmoid(named["objects"]) ** 0.6 * shares**0.4


def candidates(scores, decoding):
    """Places, classes and scores of what is scored well enough; of each class, or of each level, the best few."""
    import numpy

    parts = []
    if decoding.get("per") == "level":
        ends = numpy.cumsum(decoding["level_sizes"])
        parts = [(end - size, 0, scores[end - size : end]) for end, size in zip(ends, decoding["level_sizes"])]
    else:
        parts = [(0, index, scores[:, index : index + 1]) for index in range(scores.shape[1])]
    found = []
    for start, first, part in parts:
        rows, columns = numpy.nonzero(part > decoding["score"])
        best = numpy.argsort(-part[rows, columns], kind="stable")[: decoding.get("candidates", 400)]
        found.append((rows[best] + start, columns[best] + first))
    places, classes = (numpy.concatenate(values) for values in zip(*found))
    return places, classes, scores[places, classes]


def suppressed(boxes, scores, overlap):
    """Which boxes of one class stay where those that overlap a better one by more than this IoU go, best first."""
    import numpy

    left, kept = numpy.argsort(-scores, kind="stable"), []
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        corners = numpy.maximum(boxes[left, :2], boxes[best, :2]), numpy.minimum(boxes[left, 2:], boxes[best, 2:])
        shared = numpy.clip(corners[1] - corners[0], 0, None).prod(1)
        left = left[shared <= overlap * (area[left] + area[best] - shared)]
    return kept


def decoded(numbers, decoding):
    """Boxes (A, 4) of the numbers that a network gives in their place, from the anchors."""
    import numpy

    levels = []
    for level in decoding["anchors"]:
        y, x = (numpy.arange(size) * step for size, step in zip(level["grid"], level["step"]))
        y, x = numpy.meshgrid(y, x, indexing="ij")
        shifts = numpy.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        levels.append((shifts + numpy.asarray(level["cells"])).reshape(-1, 4))
    anchors, coder = numpy.concatenate(levels), decoding["coder"]
    centres, sizes = (anchors[:, :2] + anchors[:, 2:]) / 2, anchors[:, 2:] - anchors[:, :2]
    if coder["form"] == "distances":
        return numpy.concatenate([centres - numbers[:, :2] * sizes, centres + numbers[:, 2:] * sizes], -1)
    moved = numbers / numpy.asarray(coder["weights"])
    centres = moved[:, :2] * sizes + centres
    half = numpy.exp(numpy.minimum(moved[:, 2:], coder["clip"])) * sizes / 2
    return numpy.concatenate([centres - half, centres + half], -1)


def identity_of(folder):
    """What changes when a folder's files do: a push that mends a damaged one puts another file in its place."""
    with open(os.path.join(folder, "release.json"), encoding="utf-8") as file:
        model = json.load(file)["model"]
    return folder, os.stat(os.path.join(folder, model)).st_ino


def follow(root, release):
    """The release that ``current`` below ``root`` leads to now: ``release`` itself unless that changed."""
    try:
        folder = os.path.join(root, os.readlink(os.path.join(root, "current")))
        if release is not None and release.identity == identity_of(folder):
            return release
        return Release(folder)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if release is None:
            raise
        print(f"staying with {release.about['version']}: {error}", file=sys.stderr)
        return release


def main():
    """Look again and again; one JSON object a line."""
    parser = argparse.ArgumentParser(description="Use the release in use, and follow when that changes.")
    parser.add_argument("root", help="a product's folder, such as ~/edgeprune/gadget")
    parser.add_argument("--input", help="a .npy file with one input; zeros unless given")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between inferences")
    parser.add_argument("--count", type=int, default=0, help="how many inferences; 0: until stopped")
    options = parser.parse_args()
    release, done = None, 0
    while options.count == 0 or done < options.count:
        release = follow(os.path.expanduser(options.root), release)
        if options.input:
            import numpy

            values = numpy.load(options.input, allow_pickle=False)
        else:
            values = release.zeros()
        begin = time.perf_counter()
        found = release.answer(values)
        spent = (time.perf_counter() - begin) * 1e3
        print(json.dumps({"version": release.about["version"], **found, "ms": round(spent, 3)}), flush=True)
        done += 1
        time.sleep(options.every)


if __name__ == "__main__":
    main()
