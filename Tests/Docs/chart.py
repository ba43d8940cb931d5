"""The Helm chart and objects of Kubernetes in documents, with Helm's own library.

    chart.py values FILE           renders operations/helm/piko with the values of FILE
    chart.py objects FILE          FILE has objects of Kubernetes: kinds that Kubernetes has must fit its schemas
    chart.py command WORDS…        the words of a `helm install`, `upgrade` or `template`: renders the chart with the values that they give

Status 1, and what is wrong, when something is. Of Tests/Docs/requirements.txt.
"""

import re
import sys

import helm_python as helm
import kubernetes_validate
import yaml

CHART = "operations/helm/piko"
# Groups that Kubernetes itself does not have.
FOREIGN = ("cert-manager.io/", "monitoring.coreos.com/", "gateway.networking.k8s.io/", "kustomize.config.k8s.io/")


def render(chart, values):
    with helm.Chart.load(chart) as loaded:
        files = loaded.render(values, name="piko", namespace="piko")
    objects = [one for path, text in files.items() if not path.endswith("NOTES.txt")
               for part in re.split(r"(?m)^---\s*$", text) for one in yaml.safe_load_all(part) if one]
    check(objects)
    return objects, files


def check(objects):
    for one in objects:
        if not one.get("kind") or not one.get("apiVersion"):
            raise ValueError("an object without kind or apiVersion")
        if not one["apiVersion"].startswith(FOREIGN):
            kubernetes_validate.validate(one, "1.37.0", strict=True)


def set_value(values, path, text):
    *parents, last = path.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
    values[last] = yaml.safe_load(text) if re.fullmatch(r"\d+|true|false|null", text) else text


def merge(into, other):
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            merge(into[key], value)
        else:
            into[key] = value


def command(words):
    """The words of helm, as far as documents use them; any other is refused."""
    action, values, plain = words[0], {}, []
    if action not in ("install", "upgrade", "template"):
        raise ValueError(f"helm {action} can't be tried without a cluster")
    rest = iter(words[1:])
    for word in rest:
        if word == "--set":
            for one in next(rest).split(","):
                set_value(values, *one.split("=", 1))
        elif word in ("--values", "-f"):
            with open(next(rest)) as file:
                merge(values, yaml.safe_load(file))
        elif word in ("--namespace", "-n"):
            next(rest)
        elif word.startswith("-"):
            if word not in ("--create-namespace", "--install", "--reuse-values"):
                raise ValueError(f"helm {action}: {word} is not known to this test")
        else:
            plain.append(word)
    if len(plain) != 2:
        raise ValueError(f"helm {action}: a name and a chart are wanted")
    objects, _ = render(plain[1], values)
    print(f"{plain[1]} was rendered: {len(objects)} objects; nothing was installed")


def main():
    action, *words = sys.argv[1:]
    try:
        if action == "values":
            with open(words[0]) as file:
                for one in yaml.safe_load_all(file):
                    # A part of somebody's values: the image, which the chart needs, is in another.
                    values = {"image": {"repository": "registry.example.com/piko"}}
                    merge(values, one)
                    render(CHART, values)
        elif action == "objects":
            with open(words[0]) as file:
                check([one for one in yaml.safe_load_all(file) if one])
        else:
            command(words)
    except Exception as error:  # The libraries raise many kinds; all of them mean that the document is wrong.
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
