"""The operators: one file each, plain objects with columnar state. `build` makes one from its specification."""

from __future__ import annotations

from typing import assert_never

import pyarrow as pa

from mql.exec.items import Operator
from mql.exec.kernel import Session
from mql.exec.operators.ahead import AheadOperator
from mql.exec.operators.anomaly import AnomalyOperator
from mql.exec.operators.arranging import ArrangingOperator
from mql.exec.operators.as_events import AsEventsOperator
from mql.exec.operators.asof_join import AsofJoinOperator
from mql.exec.operators.count_windows import CountWindowsOperator
from mql.exec.operators.expand import ExpandOperator
from mql.exec.operators.fill import FillOperator
from mql.exec.operators.final import FinalOperator
from mql.exec.operators.held import HeldOperator
from mql.exec.operators.join import JoinOperator
from mql.exec.operators.join_side import JoinSideOperator
from mql.exec.operators.lookup import LookupOperator, Tables
from mql.exec.operators.partial import PartialOperator
from mql.exec.operators.rate_sample import RateSampleOperator
from mql.exec.operators.renumber import RenumberOperator
from mql.exec.operators.running import RunningOperator
from mql.exec.operators.running_median import RunningMedianOperator
from mql.exec.operators.select_rows import SelectRowsOperator
from mql.exec.operators.sessions import SessionsOperator
from mql.exec.operators.take_first import TakeFirstOperator
from mql.planner.physical import (
    Ahead,
    Anomaly,
    Arranging,
    AsEvents,
    AsofJoin,
    CountWindows,
    Expand,
    Fill,
    Final,
    Held,
    Join,
    JoinSide,
    Lookup,
    OperatorSpec,
    Partial,
    RateSample,
    Renumber,
    Running,
    RunningMedian,
    SelectRows,
    Sessions,
    TakeFirst,
)


def no_tables(name: str) -> pa.Table:
    """Where no table is declared."""
    raise AssertionError(f"nobody gives the table {name}")


def build(spec: OperatorSpec, session: Session, tables: Tables = no_tables) -> Operator:
    """The operator that does what the specification says, computing on this session. `tables` gives declared ones."""
    match spec:
        case Renumber():
            return RenumberOperator(spec, session)
        case AsEvents():
            return AsEventsOperator(spec, session)
        case Expand():
            return ExpandOperator(spec, session)
        case SelectRows():
            return SelectRowsOperator(spec, session)
        case Partial():
            return PartialOperator(spec, session)
        case RateSample():
            return RateSampleOperator(spec, session)
        case CountWindows():
            return CountWindowsOperator(spec, session)
        case Final():
            return FinalOperator(spec, session)
        case Fill():
            return FillOperator(spec, session)
        case Held():
            return HeldOperator(spec, session)
        case Ahead():
            return AheadOperator(spec, session)
        case Running():
            return RunningOperator(spec, session)
        case Sessions():
            return SessionsOperator(spec, session)
        case Arranging():
            return ArrangingOperator(spec, session)
        case TakeFirst():
            return TakeFirstOperator(spec, session)
        case RunningMedian():
            return RunningMedianOperator(spec, session)
        case JoinSide():
            return JoinSideOperator(spec, session)
        case Join():
            return JoinOperator(spec, session)
        case AsofJoin():
            return AsofJoinOperator(spec, session)
        case Lookup():
            return LookupOperator(spec, session, tables)
        case Anomaly():
            return AnomalyOperator(spec, session)
        case _:
            assert_never(spec)
