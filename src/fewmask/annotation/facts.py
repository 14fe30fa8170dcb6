"""Re-exports `questions.Question` under the module name that scripts outside of this repository import."""

from fewmask.annotation.questions import Question as Question
