"""What an index says of itself: its size, its method, a line, a table in a notebook."""

from proponent.index.loading import summary
from proponent.shown_places import as_shown
from proponent.store import Store
from proponent.views.facts import Facts


class StoreFacts:
    """The facts about an open index; `store` is set by the class that opens it."""

    store: Store

    def __len__(self) -> int:
        """Number of training examples that can be hits."""
        return self.store.counts.examples

    def __repr__(self) -> str:
        plan = self.store.plan
        return f"Index({plan.method.name}: {len(self)} examples, {len(plan.checkpoints)} checkpoints of {plan.run})"

    def _repr_html_(self) -> str:
        """The facts for a notebook."""
        plan, count = self.store.plan, len(self.store.plan.checkpoints)
        facts = (
            ("method", plan.method.name),
            ("training examples", f"{len(self):,}"),
            ("checkpoints", f"{count:,}"),
            ("classes", ", ".join(plan.label_names) if plan.label_names else "none (language model)"),
            ("data", plan.source.data),
            ("run", plan.run),
            ("folder", as_shown(str(self.store.folder))),
        )
        return Facts(title=f"Index {self.store.folder.name}", facts=facts).notebook()

    @property
    def summary(self) -> dict[str, object]:
        """Contents and cost of the index, as plain data."""
        return summary(self.store)

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.store.plan.method.name
