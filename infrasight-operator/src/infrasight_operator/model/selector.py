"""A Kubernetes label selector, evaluated against the labels of a node."""

from collections.abc import Mapping

from attrs import Factory, frozen


@frozen
class Expression:
    """A requirement on one label.

    Attributes:
        key: The label.
        operator: In, NotIn, Exists or DoesNotExist.
        values: The values for In and NotIn.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet the requirement. As in Kubernetes, NotIn matches absent labels."""
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels
            case _:
                return False


@frozen
class Selector:
    """Requirements that must all be met. A selector without requirements matches everything.

    Attributes:
        match_labels: Labels with their required values.
        match_expressions: Further requirements.
    """

    match_labels: Mapping[str, str] = Factory(dict)
    match_expressions: tuple[Expression, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels meet all requirements."""
        if any(labels.get(key) != value for key, value in self.match_labels.items()):
            return False
        return all(expression.matches(labels) for expression in self.match_expressions)
