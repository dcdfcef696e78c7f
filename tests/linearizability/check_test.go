package main

import (
	"math/rand"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
)

var people = []string{"a", "b", "c"}

// some makes a short history of a model, sensible or not.
func some(random *rand.Rand, model string) []Call {
	var calls []Call
	at := func(n int64) *int64 { return &n }
	for i := 0; i < 2+random.Intn(5); i++ {
		begin := int64(random.Intn(20))
		c := Call{Who: people[random.Intn(3)], Begin: begin, End: at(begin + int64(random.Intn(12)))}
		c.Answer = []string{done, refused, unknown}[random.Intn(3)]
		switch model {
		case "address":
			c.Ask = "register"
		case "identifier":
			c.Ask = []string{"claim", "attach"}[random.Intn(2)]
			if c.Ask == "attach" && c.Answer == refused {
				c.Answer = done
			}
		case "session":
			c.Ask, c.Token = "refresh", random.Intn(2)
			if c.Answer == done {
				c.Given = c.Token + 1
			}
		}
		if c.Answer == unknown {
			c.End = nil
		}
		if random.Intn(4) == 0 {
			c.End = at(begin + 3)
			c.Ask, c.Answer = "find", append(people, "")[random.Intn(4)]
			if model == "session" {
				c.Ask, c.Token, c.Given, c.Answer = "look", 0, 0, ended
			}
		}
		calls = append(calls, c)
	}
	return calls
}

// plain is the session without doubt: a call of unknown outcome does what it does where it stands.
func plain(s session, c Call) (bool, session) {
	ok, next := s.step(c)
	if next.doubtful {
		next.doubtful, next.ended = false, true
	}
	return ok, next
}

func TestPruningLosesNothing(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for name, quick := range models {
		slow := quick
		if name == "session" {
			slow = model(session{}, plain)
		}
		verdicts := map[string]int{}
		for i := 0; i < 30000; i++ {
			calls := some(random, name)
			found := check(History{Model: name, Calls: calls}, time.Minute)
			expected := linearizable
			if run(slow, calls, time.Minute) != porcupine.Ok {
				expected = notLinearizable
			}
			if found.Verdict != expected {
				t.Fatalf("%s: %s, without pruning %s: %+v", name, found.Verdict, expected, calls)
			}
			verdicts[expected]++
		}
		if verdicts[linearizable] < 1000 || verdicts[notLinearizable] < 1000 {
			t.Fatalf("%s: the histories are all alike: %v", name, verdicts)
		}
	}
}
