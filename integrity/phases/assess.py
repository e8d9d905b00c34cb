"""The assess phase: both servers are looked at before anything is written."""

from __future__ import annotations

from collections.abc import Mapping

from integrity.assess.assessment import Assessment, assess
from integrity.assess.choose import Choice
from integrity.assess.registry import select_checks
from integrity.assess.subject import Subject
from integrity.assess.waivers import covering, pair
from integrity.endpoint import Endpoint
from integrity.errors import Refused
from integrity.ledger import Ledger, RunHandle
from integrity.ledger.assessments import AssessmentRecord, record_assessment
from integrity.ledger.waivers import read_waivers
from integrity.phases.servers import Servers
from integrity.progress import Progress
from integrity.settings import Settings
from integrity.strategy import Strategy

_NAMED = 5
"""So many items of a check are named in an error."""


class AssessPhase:
    """Makes the checks, records what they came to, and says what somebody should know."""

    def __init__(self, settings: Settings, ledger: Ledger, handle: RunHandle, progress: Progress) -> None:
        self._settings = settings
        self._ledger = ledger
        self._handle = handle
        self._progress = progress

    def run(self, servers: Servers, detail: dict[str, object]) -> Assessment:
        """Look at both servers; nothing is written to them.

        :raises ConfigurationError: ``assess.only`` or ``assess.skip`` name a check that there is not.
        :raises ServerError: a server is gone.
        """
        settings = self._settings
        selection = select_checks(settings.assess.only, settings.assess.skip)
        source, target = pair(settings)
        made = assess(self._subject(servers), selection, read_waivers(self._ledger.engine, source, target))
        record_assessment(
            self._ledger.engine,
            AssessmentRecord(
                self._handle.id,
                source,
                target,
                made.choice.strategy,
                made.mode,
                made.at,
                made.facts(settings.strategy),
            ),
            made.results,
        )
        for result in made.warnings:
            self._progress.say(f"warning   {result.check}: {result.summary}")
        for result in made.waived:
            self._progress.say(f"waived    {result.check}: {result.summary}")
        if settings.strategy is Strategy.AUTO:
            self._progress.say(f"strategy  {made.choice.strategy.value}: {' '.join(made.choice.why)}")
        census = made.census
        detail.update(
            choice_to_dict(made.choice)
            | {
                "looked_at": census.keys_looked_at if census is not None else None,
                "mode": made.mode,
                "grade": made.grade.letter,
                "verdict": made.conclusion.verdict.value,
                "checks": len(made.results),
                "blocking": [result.check for result in made.open],
                "waived": [result.check for result in made.waived],
                "warnings": [result.check for result in made.warnings],
                "left_out": list(made.left_out),
            }
        )
        return made

    def require_open(self, made: Assessment) -> None:
        """Stop what must not go on.

        :raises Refused: a check blocks, and no waiver lets it pass.
        """
        if not made.open:
            return
        waivers = read_waivers(self._ledger.engine, *pair(self._settings))
        told = []
        for result in made.open:
            _, left = covering(result, waivers, made.at)
            named = [item for item in left if item != "*"]
            more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
            items = f" [{', '.join(named[:_NAMED])}{more}]" if named else ""
            told.append(f"{result.check}: {result.summary}{items}")
        raise Refused(
            f"The assessment stops this run. {' '.join(told)}",
            "Nothing was written. `greenfly assess` shows each with its remedy; what is to be let pass is waived by "
            f"`greenfly assess waive {made.open[0].check} --why … --until …`.",
        )

    def _subject(self, servers: Servers) -> Subject:
        settings = self._settings
        if settings.replica.url is None:
            source, identity = servers.source, servers.source_identity
        else:
            source = Endpoint.from_settings("source", settings.source)
            identity = source.identify()
        return Subject(
            settings,
            source,
            servers.target,
            identity,
            servers.target_identity,
            Strategy.COPY,
            servers.databases,
            self._progress,
            reader=servers.source,
            reader_identity=servers.source_identity,
        )


def choice_to_dict(choice: Choice) -> dict[str, object]:
    """As a phase's detail holds it."""
    return {"strategy": choice.strategy.value, "why": list(choice.why)}


def choice_from_detail(detail: Mapping[str, object]) -> Choice:
    """What an assess phase recorded; a run from before there were assessments copied."""
    strategy, why = detail.get("strategy"), detail.get("why")
    return Choice(
        Strategy(str(strategy)) if strategy is not None else Strategy.COPY,
        tuple(map(str, why)) if isinstance(why, list) else ("Every run copied then.",),
    )


def choice_without(settings: Settings) -> Choice:
    """The road where nothing is assessed."""
    if settings.strategy is Strategy.AUTO:
        return Choice(
            Strategy.COPY,
            ("The assessment is switched off (assess.enabled), so nothing is known for native.",),
        )
    return Choice(settings.strategy, ("It was asked for.",))
