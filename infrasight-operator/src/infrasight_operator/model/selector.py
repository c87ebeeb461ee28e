"""A LabelSelector, decided here for the labels that a node has."""

from collections.abc import Mapping

from attrs import Factory, frozen


@frozen
class Expression:
    """One demand on one label.

    Attributes:
        key: The label.
        operator: In, NotIn, Exists or DoesNotExist.
        values: For the first two.
    """

    key: str
    operator: str
    values: tuple[str, ...] = ()

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether labels are as demanded; NotIn also fits where the label is absent, as everywhere in Kubernetes."""
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
    """Demands that must all be met; none fits everything.

    Attributes:
        match_labels: Labels with their values.
        match_expressions: Further demands.
    """

    match_labels: Mapping[str, str] = Factory(dict)
    match_expressions: tuple[Expression, ...] = ()

    def fits(self, labels: Mapping[str, str]) -> bool:
        """Whether something with these labels is selected."""
        return all(labels.get(key) == value for key, value in self.match_labels.items()) and all(
            expression.fits(labels) for expression in self.match_expressions
        )
