"""`Question` under the module name that scripts outside of this repository import it from; see `questions`."""

from fewmask.annotation.questions import Question as Question
