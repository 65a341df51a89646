// Command values writes the table of the chart's values from the comments of its values.yaml:
//
//	go run ./build/values > docs/values.md
//
// The comment above a value is what the table says of it, so each value has one. A map without any comment inside is one value.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

const head = `# Values of the chart

Made of the comments in [values.yaml](../charts/spiderpool/values.yaml): change them there, and run "make generate".

helm refuses values that are not known or malformed, and says which.
`

func main() {
	page, err := document("charts/spiderpool/values.yaml")
	if err != nil {
		fmt.Fprintln(os.Stderr, "values:", err)
		os.Exit(1)
	}
	fmt.Print(page)
}

// document is the page for a file of values.
func document(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	var root yaml.Node
	if err := yaml.Unmarshal(data, &root); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if len(root.Content) == 0 || root.Content[0].Kind != yaml.MappingNode {
		return "", fmt.Errorf("%s: want a map of sections", file)
	}
	page := head
	for section, value := range pairs(root.Content[0]) {
		page += fmt.Sprintf("\n## %s\n\n%s\n\n| value | default | what it does |\n|---|---|---|\n", section.Value, comment(section))
		rows, err := table(section.Value, value)
		if err != nil {
			return "", fmt.Errorf("%s:%w", file, err)
		}
		page += rows
	}
	return page, nil
}

// pairs are the keys of a map and what is below them, in their order.
func pairs(m *yaml.Node) func(yield func(key, value *yaml.Node) bool) {
	return func(yield func(key, value *yaml.Node) bool) {
		for i := 0; i < len(m.Content); i += 2 {
			if !yield(m.Content[i], m.Content[i+1]) {
				return
			}
		}
	}
}

// table has a row for each value below a path, and for each section that has a comment.
func table(path string, section *yaml.Node) (rows string, err error) {
	for key, value := range pairs(section) {
		name, text, standard := path+"."+key.Value, comment(key), ""
		sections := value.Kind == yaml.MappingNode && commented(value)
		if !sections {
			if text == "" {
				return "", fmt.Errorf("%d: no comment above %s: say there what it does", key.Line, name)
			}
			if standard, err = inJSON(value); err != nil {
				return "", fmt.Errorf("%d: %s: %w", key.Line, name, err)
			}
		}
		if text != "" {
			rows += fmt.Sprintf("| `%s` | %s | %s |\n", name, standard, strings.ReplaceAll(text, "|", `\|`))
		}
		if sections {
			below, err := table(name, value)
			if err != nil {
				return "", err
			}
			rows += below
		}
	}
	return rows, nil
}

// commented reports whether there is a comment anywhere in a map.
func commented(m *yaml.Node) bool {
	for key, value := range pairs(m) {
		if comment(key) != "" || value.Kind == yaml.MappingNode && commented(value) {
			return true
		}
	}
	return false
}

// comment is the text above a key, in one line.
func comment(key *yaml.Node) string {
	var words []string
	for line := range strings.Lines(key.HeadComment) {
		words = append(words, strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "#"))...)
	}
	return strings.Join(words, " ")
}

// inJSON is a default as code.
func inJSON(value *yaml.Node) (string, error) {
	var decoded any
	if err := value.Decode(&decoded); err != nil {
		return "", err
	}
	text, err := json.Marshal(decoded)
	return "`" + string(text) + "`", err
}
