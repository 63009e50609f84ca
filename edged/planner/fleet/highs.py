"""Linear and mixed-integer models in numpy arrays, and HiGHS behind one small class.

Knows nothing of fleets. HiGHS is imported when the first solver is built, so that reading,
generating and verifying need no solver.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from edged.errors import EdgedError, Unsupported
from edged.planner.fleet.problem import Array, Ints

THREADS = 1  # all solver objects of one process must agree, or run() returns "not set" (HiGHS)
_PRIMAL_SIMPLEX = 4  # value of HiGHS's option `simplex_strategy`
INFINITY = float("inf")


class SolverStatus(enum.Enum):
    OPTIMAL = "optimal"
    INFEASIBLE = "infeasible"
    LIMIT = "limit"  # stopped early, with or without a solution


@dataclass(frozen=True, slots=True)
class Solution:
    """The result of a maximisation: `values` (columns,) and `duals` (rows,).

    A dual is ∂objective/∂limit. `found` says that the values are feasible: a MILP that stopped
    early may have none. Only a MILP has a `bound`.
    """

    status: SolverStatus
    found: bool
    objective: float
    bound: float
    values: Array
    duals: Array


@dataclass(frozen=True, slots=True)
class ConstraintFamily:
    """A named range of rows, so that an infeasible model can be explained."""

    name: str
    start: int
    stop: int


class LinearProgram:
    """Columns and rows of `maximise cost·x`, collected in arrays; columns may be integers."""

    def __init__(self) -> None:
        self.families: list[ConstraintFamily] = []
        self._columns: list[tuple[Array, Array, Array]] = []
        self._integer: list[bool] = []
        self._limits: list[tuple[Array, Array]] = []
        self._entries: list[tuple[Ints, Ints, Array]] = []
        self.n_columns = 0
        self.n_rows = 0

    def columns(
        self,
        count: int,
        upper: Any = 1.0,
        cost: Any = 0.0,
        *,
        lower: Any = 0.0,
        integer: bool = False,
    ) -> Ints:
        """Add columns; scalars broadcast. Returns their indices, (count,)."""
        spread = [
            np.broadcast_to(np.asarray(v, dtype=float), (count,)) for v in (lower, upper, cost)
        ]
        self._columns.append((spread[0], spread[1], spread[2]))
        self._integer += [integer] * count
        self.n_columns += count
        return np.arange(self.n_columns - count, self.n_columns)

    def rows(
        self,
        name: str,
        count: int,
        *terms: tuple[Any, Any, Any],
        lower: Any = -INFINITY,
        upper: Any = INFINITY,
    ) -> Ints:
        """Add the family of rows `lower <= Σ terms <= upper` and return their indices, (count,).

        A term is (row within the family, column, coefficient): arrays that broadcast.
        """
        start = self.n_rows
        self.families.append(ConstraintFamily(name, start, start + count))
        spread = [np.broadcast_to(np.asarray(v, dtype=float), (count,)) for v in (lower, upper)]
        self._limits.append((spread[0], spread[1]))
        for term in terms:
            row, column, coefficient = np.broadcast_arrays(*term)
            self._entries.append(
                (row.ravel() + start, column.ravel(), coefficient.ravel().astype(float))
            )
        self.n_rows += count
        return np.arange(start, start + count)

    def to_highs(self, highspy: ModuleType) -> Any:
        """A HighsLp of the model."""
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = self.n_columns, self.n_rows
        lower, upper, cost = (_join([c[i] for c in self._columns]) for i in range(3))
        lp.col_lower_, lp.col_upper_, lp.col_cost_ = lower, upper, cost
        lp.row_lower_ = _join([r[0] for r in self._limits])
        lp.row_upper_ = _join([r[1] for r in self._limits])
        lp.sense_ = highspy.ObjSense.kMaximize
        row, column, value = (np.concatenate([e[i] for e in self._entries]) for i in range(3))
        order = np.lexsort((row, column))
        lp.a_matrix_.format_ = highspy.MatrixFormat.kColwise
        lp.a_matrix_.start_ = np.searchsorted(column[order], np.arange(self.n_columns + 1)).tolist()
        lp.a_matrix_.index_ = row[order].tolist()  # HiGHS copies a list in half the time
        lp.a_matrix_.value_ = value[order].tolist()
        if any(self._integer):
            kinds = (highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger)
            lp.integrality_ = [kinds[integer] for integer in self._integer]
        return lp


class HighsSolver:
    """One HiGHS object and its model. Changes are kept, and each solve starts from the last one."""

    def __init__(self, model: LinearProgram, **options: float | int | str) -> None:
        self._highspy = load()
        self._highs = _silent(self._highspy)
        for name, value in {"output_flag": False, "threads": THREADS, **options}.items():
            self._highs.setOptionValue(name, value)
        self._highs.passModel(model.to_highs(self._highspy))
        self._columns = np.arange(model.n_columns, dtype=np.int32)
        self._rows = np.arange(model.n_rows, dtype=np.int32)

    def set_costs(self, columns: Ints, costs: Array) -> None:
        self._highs.changeColsCost(len(columns), columns, costs)

    def set_column_bounds(self, columns: Ints, lower: Array, upper: Array) -> None:
        self._highs.changeColsBounds(len(columns), columns, lower, upper)

    def set_row_bounds(self, rows: Ints, lower: Array, upper: Array) -> None:
        self._highs.changeRowsBounds(len(rows), rows, lower, upper)

    def set_coefficients(self, rows: Ints, columns: Ints, values: Array) -> None:
        for row, column, value in zip(
            rows.tolist(), columns.tolist(), values.tolist(), strict=True
        ):
            self._highs.changeCoeff(row, column, value)

    def solve(self) -> Solution:
        """Solve; after a failure solve again from scratch, and then by the primal simplex.

        HiGHS's default, the dual simplex, gives up on rare instances whose loads span many orders
        of magnitude; the primal simplex solves those. Raises EdgedError when none does.
        """
        if (solution := self._run()) is not None:
            return solution
        self._highs.clearSolver()
        if (solution := self._run()) is not None:
            return solution
        _, usual = self._highs.getOptionValue("simplex_strategy")
        self._highs.clearSolver()
        self._highs.setOptionValue("simplex_strategy", _PRIMAL_SIMPLEX)
        try:
            if (solution := self._run()) is not None:
                return solution
        finally:
            self._highs.setOptionValue("simplex_strategy", usual)
        found = self._highs.modelStatusToString(self._highs.getModelStatus())
        raise EdgedError(
            f"HiGHS stopped with status {found!r}; this is a bug or a numerical failure"
        )

    def _run(self) -> Solution | None:
        self._highs.run()
        status = self._status()
        return None if status is None else self._solution(status)

    def _status(self) -> SolverStatus | None:
        status = self._highspy.HighsModelStatus
        return {
            status.kOptimal: SolverStatus.OPTIMAL,
            status.kModelEmpty: SolverStatus.OPTIMAL,
            status.kInfeasible: SolverStatus.INFEASIBLE,
            status.kUnboundedOrInfeasible: SolverStatus.INFEASIBLE,  # no column here is unbounded
            status.kTimeLimit: SolverStatus.LIMIT,
            status.kSolutionLimit: SolverStatus.LIMIT,
        }.get(self._highs.getModelStatus())

    def _solution(self, status: SolverStatus) -> Solution:
        info = self._highs.getInfo()
        feasible = self._highspy.SolutionStatus.kSolutionStatusFeasible
        solution = self._highs.getSolution()
        return Solution(
            status=status,
            found=info.primal_solution_status == feasible,
            objective=float(info.objective_function_value),
            bound=float(info.mip_dual_bound),
            values=np.array(solution.col_value),
            duals=np.array(solution.row_dual),
        )


def load() -> ModuleType:
    """The module highspy. Raises Unsupported, with what to do, where it is not installed."""
    try:
        import highspy
    except ImportError:
        raise Unsupported(
            "this planning method needs HiGHS; install it with: pip install 'edged[plan]'"
        ) from None
    module: ModuleType = highspy
    return module


def _silent(highspy: ModuleType) -> Any:
    """A Highs object that prints nothing.

    Since 1.16 its constructor greets on standard output when it sets up its callbacks, before a
    caller can set an option. No callback is used here.
    """

    class Silent(highspy.Highs):  # type: ignore[misc, name-defined]
        def enableCallbacks(self) -> None:
            self.setOptionValue("output_flag", False)

    return Silent()


def _join(parts: list[Array]) -> Array:
    return np.concatenate(parts) if parts else np.zeros(0)
