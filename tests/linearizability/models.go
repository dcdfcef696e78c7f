package main

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// What Gatelog promises, as programs that do one call after the other.
var models = map[string]porcupine.Model{
	"address":    model(address{}, address.step),
	"identifier": model(identifier{}, identifier.step),
	"session":    model(session{}, session.step),
}

func model[S comparable](initial S, step func(S, Call) (bool, S)) porcupine.Model {
	return porcupine.Model{
		Init: func() interface{} { return initial },
		Step: func(state, call, _ interface{}) (bool, interface{}) {
			return step(state.(S), call.(Call))
		},
		DescribeOperation: func(call, _ interface{}) string {
			c := call.(Call)
			answer := c.Answer
			if answer == unknown {
				answer = "?"
			}
			return fmt.Sprintf("%s(%s %d) -> %s %d", c.Ask, c.Who, c.Token, answer, c.Given)
		},
		DescribeState: func(state interface{}) string { return fmt.Sprintf("%+v", state) },
	}
}

// address: the first who registers it has it, for good.
type address struct{ holder string }

func (s address) step(c Call) (bool, address) {
	switch {
	case c.Ask == "find":
		return c.Answer == s.holder, s
	case c.Answer == done:
		// The same registration sent again gets the same answer.
		return s.holder == "" || s.holder == c.Who, address{c.Who}
	case c.Answer == refused:
		return s.holder != "" && s.holder != c.Who, s
	case s.holder == "" && !c.lost:
		return true, address{c.Who}
	}
	return true, s
}

// identifier: the first user who claims it may attach it, and nobody else.
type identifier struct {
	holder   string
	attached bool
}

func (s identifier) step(c Call) (bool, identifier) {
	claimed := identifier{c.Who, s.attached}
	switch {
	case c.Ask == "find":
		return c.Answer == "" && !s.attached || c.Answer != "" && s.attached && c.Answer == s.holder, s
	case c.Ask == "attach" && s.holder == c.Who:
		return true, identifier{c.Who, true}
	case c.Ask == "attach":
		return c.Answer == unknown, s
	case c.Answer == done:
		return s.holder == "" || s.holder == c.Who, claimed
	case c.Answer == refused:
		return s.holder != "" && s.holder != c.Who, s
	case s.holder == "" && !c.lost:
		return true, claimed
	}
	return true, s
}

const generations = 8

// session: each of its refresh tokens is exchanged once. One that comes again, under another idempotency key, ends it.
type session struct {
	generation int
	// By whom each generation's token was exchanged.
	by    [generations]string
	ended bool
	// A call of unknown outcome may have ended it.
	doubtful bool
}

func (s session) step(c Call) (bool, session) {
	if c.Ask == "look" {
		return s.end(c.Answer == ended && (s.ended || s.doubtful))
	}
	if s.by[c.Token] == c.Who {
		// The same exchange sent again gets the same answer.
		return c.Answer == unknown || c.Answer == done && c.Given == c.Token+1, s
	}
	isNewest := c.Token == s.generation
	switch {
	case c.Answer == done:
		return isNewest && !s.ended && c.Given == c.Token+1, s.exchanged(c)
	case c.Answer == refused:
		return s.end(s.ended || s.doubtful || !isNewest)
	case s.ended:
		return true, s
	case isNewest:
		return !c.lost, s.exchanged(c)
	}
	// If it was not carried out yet, it can still be: that token stays exchanged.
	s.doubtful = c.Token < s.generation || s.doubtful
	s.ended = c.Token > s.generation
	return true, s
}

func (s session) exchanged(c Call) session {
	s.by[c.Token] = c.Who
	s.generation++
	return s
}

func (s session) end(possible bool) (bool, session) {
	s.ended = true
	return possible, s
}
