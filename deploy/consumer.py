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
        self.interpreter = load_interpreter(os.path.join(folder, self.about["model"]))
        self.classify(self.zeros())  # what does not run is not adopted

    def classify(self, values):
        """The index of the greatest output for one input, an array of the model's shape and type."""
        self.interpreter.set_tensor(self.interpreter.get_input_details()[0]["index"], values)
        self.interpreter.invoke()
        return int(self.interpreter.get_tensor(self.interpreter.get_output_details()[0]["index"]).argmax())

    def zeros(self):
        """An input of zeros."""
        import numpy

        details = self.interpreter.get_input_details()[0]
        return numpy.zeros(details["shape"], details["dtype"])


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
    """Classify again and again; one JSON object a line."""
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
        index = release.classify(values)
        spent = (time.perf_counter() - begin) * 1e3
        label = release.labels[index] if index < len(release.labels) else None
        print(json.dumps({"version": release.about["version"], "class": index, "label": label, "ms": round(spent, 3)}), flush=True)
        done += 1
        time.sleep(options.every)


if __name__ == "__main__":
    main()
