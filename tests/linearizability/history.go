package main

// A History is all that was asked about one key, and what was answered.
type History struct {
	Model string `json:"model"`
	Key   string `json:"key"`
	Calls []Call `json:"calls"`
}

// A Call is one call of one client.
type Call struct {
	// What was asked: register, claim, attach, find, refresh or look.
	Ask string `json:"ask"`
	// For whom: the client and its idempotency key, or the user.
	Who string `json:"who"`
	// The generation of the refresh token that was presented.
	Token int `json:"token"`
	// Nanoseconds. No return: there was no answer, or one that does not say whether it was done.
	Begin int64  `json:"begin"`
	End   *int64 `json:"end"`
	// done, refused, or what was read; empty where the outcome is not known.
	Answer string `json:"answer"`
	// Generation of the refresh token that was given.
	Given int `json:"given"`
	// For the reader of a picture.
	Client int `json:"client"`
	Node   int `json:"node"`

	// Set by prune: whatever became of it, it won nothing.
	lost bool
}

const (
	unknown = ""
	done    = "done"
	refused = "refused"
	ended   = "ended"
)

// keepsState says whether a call changes nothing, whenever it takes effect.
func (c Call) keepsState() bool {
	return c.Ask == "find" || (c.Ask == "register" || c.Ask == "claim") && c.Answer == refused
}

// isEssential says whether a call gave something, or may have.
func (c Call) isEssential() bool {
	return c.Answer == unknown && !c.lost || c.Answer == done
}

// prune finds the calls of unknown outcome that cannot have won: somebody else did, or was found to have, or they were
// refused when they asked again. (A retry under the key of a call that was carried out gets that call's answer.) A checker
// that had to find that out by trying would try for ever. TestPruningLosesNothing compares the verdicts.
func prune(calls []Call) []Call {
	type prize struct {
		ask   string
		token int
	}
	winners, losers := map[prize]names{}, map[prize]names{}
	for _, c := range calls {
		p := prize{c.Ask, c.Token}
		switch {
		case c.Ask == "find" && c.Answer != "":
			// An address has one holder for all the time that a history tells of.
			for _, ask := range []string{"register", "claim"} {
				p := prize{ask, 0}
				winners[p] = winners[p].with(c.Answer)
			}
		case c.Answer == done:
			winners[p] = winners[p].with(c.Who)
		case c.Answer == refused:
			losers[p] = losers[p].with(c.Who)
		}
	}
	pruned := append([]Call(nil), calls...)
	for i, c := range pruned {
		p := prize{c.Ask, c.Token}
		if c.Answer == unknown && c.Ask != "attach" {
			pruned[i].lost = len(winners[p]) > 0 && !winners[p][c.Who] || losers[p][c.Who]
		}
	}
	return pruned
}

type names map[string]bool

func (n names) with(name string) names {
	if n == nil {
		n = names{}
	}
	n[name] = true
	return n
}
