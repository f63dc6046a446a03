// Command kstatus prints the verdict of the kstatus library on objects, as `helm --wait` and Flux would judge them.
//
// It reads YAML or JSON documents from stdin and writes one line of JSON for each, in their order:
// {"name": ..., "status": "Current", "message": ...}. The verdicts are explained in the library's
// pkg/kstatus/README.md.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

type verdict struct {
	Name    string `json:"name"`
	Status  string `json:"status"`
	Message string `json:"message"`
}

func main() {
	if err := judge(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kstatus:", err)
		os.Exit(1)
	}
}

func judge(in io.Reader, out io.Writer) error {
	documents := yaml.NewYAMLOrJSONDecoder(in, 4096)
	lines := json.NewEncoder(out)
	for {
		var document json.RawMessage
		if err := documents.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		object := &unstructured.Unstructured{}
		if err := object.UnmarshalJSON(document); err != nil {
			return err
		}
		result, err := status.Compute(object)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		if err := lines.Encode(verdict{object.GetName(), result.Status.String(), result.Message}); err != nil {
			return err
		}
	}
}
