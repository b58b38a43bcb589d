"""Asks before anything is done."""

from dataclasses import dataclass
from typing import ClassVar, Final

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static

from supervisor.top.actions import Question

#: As the daemon has it.
_HIGHEST: Final = 1000


@dataclass(frozen=True, kw_only=True)
class Consent:
    """Somebody has said yes.

    Attributes:
        number: what was asked for beside; None for nothing.
    """

    number: int | None = None


class Confirmation(ModalScreen[Consent | None]):
    """A question, yes or no.

    No is what Enter and Escape say at first: whoever hits a wrong key has done nothing.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "yes", "Yes"),
        Binding("n,escape,q", "no", "No"),
        Binding("left,right", "app.focus_next", show=False),
    ]

    def __init__(self, asked: Question) -> None:
        super().__init__()
        self._asked = asked

    def compose(self) -> ComposeResult:
        """What is asked."""
        with Vertical(id="dialog"):
            yield Static(self._asked.title, id="title", markup=False)
            yield Static(self._asked.text, id="text", markup=False)
            if self._asked.number is not None:
                yield Input(str(self._asked.number), type="integer", max_length=5, id="number")
            with Horizontal(id="buttons"):
                yield Button("No (n)", id="no")
                yield Button(f"{self._asked.yes} (y)", id="yes", variant="error")

    def on_mount(self) -> None:
        """Where the first key goes."""
        self.query_one("#no" if self._asked.number is None else "#number").focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """A button."""
        if event.button.id == "yes":
            self.action_yes()
        else:
            self.action_no()

    def on_input_submitted(self) -> None:
        """Enter behind the number says yes to it."""
        self.action_yes()

    def action_yes(self) -> None:
        """Do it."""
        if self._asked.number is None:
            self.dismiss(Consent())
            return
        try:
            number = int(self.query_one("#number", Input).value)
        except ValueError:
            number = _HIGHEST + 1
        if abs(number) > _HIGHEST:
            self.query_one("#text", Static).update(f"A priority is a number from -{_HIGHEST} to {_HIGHEST}.")
            return
        self.dismiss(Consent(number=number))

    def action_no(self) -> None:
        """Leave it."""
        self.dismiss(None)
