// Judges histories of calls by Porcupine (github.com/anishathalye/porcupine): a JSON object a line in, a verdict a line
// out. A picture of what is not linearizable goes to the file that is named, if one is.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
)

const patience = 60 * time.Second

func main() {
	if err := judge(); err != nil {
		fmt.Fprintln(os.Stderr, "linearizability:", err)
		os.Exit(1)
	}
}

func judge() error {
	in, out := json.NewDecoder(bufio.NewReader(os.Stdin)), json.NewEncoder(os.Stdout)
	for in.More() {
		var asked struct {
			History
			Picture string `json:"picture"`
		}
		if err := in.Decode(&asked); err != nil {
			return err
		}
		if _, known := models[asked.Model]; !known {
			return fmt.Errorf("there is no model %q", asked.Model)
		}
		verdict := check(asked.History, patience)
		if verdict.Verdict != linearizable && asked.Picture != "" {
			if err := draw(asked.History, verdict, asked.Picture); err != nil {
				return err
			}
		}
		if err := out.Encode(verdict); err != nil {
			return err
		}
	}
	return nil
}

// draw shows the witness, or all if there is none, with the longest orders that were found.
func draw(h History, verdict Verdict, path string) error {
	calls := verdict.Witness
	if calls == nil {
		calls = prune(h.Calls)
	}
	model := models[h.Model]
	_, info := porcupine.CheckOperationsVerbose(model, operations(calls), patience)
	return porcupine.VisualizePath(model, info, path)
}
