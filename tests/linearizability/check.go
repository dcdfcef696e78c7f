package main

import (
	"math"
	"time"

	"github.com/anishathalye/porcupine"
)

// A Verdict on a history.
type Verdict struct {
	// linearizable, not linearizable, or undecided.
	Verdict string `json:"verdict"`
	// Calls that cannot be brought into an order, where a part of the history suffices.
	Witness []Call `json:"witness,omitempty"`
}

const (
	linearizable    = "linearizable"
	notLinearizable = "not linearizable"
	undecided       = "undecided"
)

// check looks for an order of all calls. If a history has none, the search takes for ever where many calls overlap;
// leaving out calls that change nothing (or, in a session, all refusals) from one that has an order leaves one that has
// an order. So a part without an order is proof enough, and is small enough to be shown.
func check(h History, patience time.Duration) Verdict {
	model, calls := models[h.Model], prune(h.Calls)
	var essential, still []Call
	for _, c := range calls {
		if c.isEssential() {
			essential = append(essential, c)
		} else if c.keepsState() {
			still = append(still, c)
		}
	}
	// Most of what can be wrong shows here, at once.
	for _, more := range append([][]Call{nil}, singles(still)...) {
		if part := together(essential, more); run(model, part, patience) == porcupine.Illegal {
			return Verdict{notLinearizable, part}
		}
	}
	result := run(model, calls, patience)
	if result == porcupine.Ok {
		return Verdict{linearizable, nil}
	}
	for _, more := range pairs(still) {
		if part := together(essential, more); run(model, part, patience) == porcupine.Illegal {
			return Verdict{notLinearizable, part}
		}
	}
	if result == porcupine.Illegal {
		return Verdict{notLinearizable, nil}
	}
	return Verdict{undecided, nil}
}

func singles(calls []Call) [][]Call {
	var singles [][]Call
	for _, c := range calls {
		singles = append(singles, []Call{c})
	}
	return singles
}

func pairs(calls []Call) [][]Call {
	var pairs [][]Call
	for i := range calls {
		for j := range calls[:i] {
			pairs = append(pairs, []Call{calls[i], calls[j]})
		}
	}
	return pairs
}

func together(some, more []Call) []Call {
	return append(append([]Call(nil), some...), more...)
}

func run(model porcupine.Model, calls []Call, patience time.Duration) porcupine.CheckResult {
	return porcupine.CheckOperationsTimeout(model, operations(calls), patience)
}

// operations gives calls of unknown outcome all the time there is: what never happened happened after all else.
func operations(calls []Call) []porcupine.Operation {
	var operations []porcupine.Operation
	for _, c := range calls {
		end := int64(math.MaxInt64)
		if c.End != nil {
			end = *c.End
		}
		operations = append(operations, porcupine.Operation{
			ClientId: c.Client, Input: c, Call: c.Begin, Return: end, Output: c.Answer,
		})
	}
	return operations
}
