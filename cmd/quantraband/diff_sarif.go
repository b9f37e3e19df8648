package main

import (
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/quantra-l/quantra/analyze"
)

// The parts of SARIF 2.1.0 (OASIS, docs.oasis-open.org/sarif/sarif/v2.1.0) that a report has.
type sarifLog struct {
	Schema  string     `json:"$schema"`
	Version string     `json:"version"`
	Runs    []sarifRun `json:"runs"`
}

type sarifRun struct {
	Tool        sarifTool                `json:"tool"`
	Invocations []sarifInvocation        `json:"invocations"`
	BaseIDs     map[string]sarifArtifact `json:"originalUriBaseIds,omitempty"`
	Results     []sarifResult            `json:"results"`
	ColumnKind  string                   `json:"columnKind"`
}

type sarifTool struct {
	Driver sarifDriver `json:"driver"`
}

type sarifDriver struct {
	Name    string      `json:"name"`
	Version string      `json:"version,omitempty"`
	Rules   []sarifRule `json:"rules"`
}

type sarifRule struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Short   sarifText `json:"shortDescription"`
	Full    sarifText `json:"fullDescription"`
	Help    sarifText `json:"help"`
	Default struct {
		Level string `json:"level"`
	} `json:"defaultConfiguration"`
}

type sarifText struct {
	Text string `json:"text"`
}

type sarifInvocation struct {
	Successful    bool                `json:"executionSuccessful"`
	ExitCode      int                 `json:"exitCode"`
	Notifications []sarifNotification `json:"toolExecutionNotifications,omitempty"`
}

type sarifNotification struct {
	Level   string    `json:"level"`
	Message sarifText `json:"message"`
}

type sarifResult struct {
	RuleID       string             `json:"ruleId"`
	RuleIndex    int                `json:"ruleIndex"`
	Level        string             `json:"level"`
	Message      sarifText          `json:"message"`
	Locations    []sarifLocation    `json:"locations"`
	Fingerprints map[string]string  `json:"partialFingerprints"`
	Properties   map[string]float64 `json:"properties"`
}

type sarifLocation struct {
	Physical *sarifPhysical `json:"physicalLocation,omitempty"`
	Logical  []sarifLogical `json:"logicalLocations"`
}

type sarifPhysical struct {
	Artifact sarifArtifact `json:"artifactLocation"`
	Region   *sarifRegion  `json:"region,omitempty"`
}

type sarifArtifact struct {
	URI    string `json:"uri"`
	BaseID string `json:"uriBaseId,omitempty"`
}

type sarifRegion struct {
	StartLine int64 `json:"startLine"`
}

type sarifLogical struct {
	Name string `json:"fullyQualifiedName"`
	Kind string `json:"kind"`
}

// sarifRules are the rules, by the index of a result.
func sarifRules() []sarifRule {
	rule := func(id, name, level, short, help string) sarifRule {
		r := sarifRule{ID: id, Name: name, Short: sarifText{short}, Full: sarifText{short + " " + help}, Help: sarifText{help}}
		r.Default.Level = level
		return r
	}
	return []sarifRule{
		rule("slower", "Slower", "warning", "A function costs more than in the base.", "The 95 % interval of the difference is in the message; see docs/diff.md for how it is found."),
		rule("faster", "Faster", "note", "A function costs less than in the base.", "The 95 % interval of the difference is in the message; see docs/diff.md for how it is found."),
		rule("cannot-tell", "CannotTell", "note", "A function may cost more than the limit allows.", "More samples, or more runs, would tell."),
	}
}

// sarif is the report for a code host: each cause at the beginning of its function.
func (r *gateReport) sarif(trim string) *sarifLog {
	run := sarifRun{ColumnKind: "utf16CodeUnits", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "quantraband diff", Version: ownVersion(), Rules: sarifRules()}
	inv := sarifInvocation{Successful: true}
	if r.Verdict == verdictFail {
		inv.ExitCode = exitGate
	}
	for _, w := range r.Warnings {
		inv.Notifications = append(inv.Notifications, sarifNotification{"warning", sarifText{printable(w)}})
	}
	run.Invocations = []sarifInvocation{inv}
	for _, g := range r.Changes {
		i := 0
		if g.Verdict == analyze.Fell {
			i = 1
		}
		run.Results = append(run.Results, g.sarif(i, g.levelOf(), g.messageOf(), trim))
	}
	for _, g := range r.Undecided {
		if g.Verdict != analyze.Grew {
			run.Results = append(run.Results, g.sarif(2, "note", printable(g.Function)+" may cost up to "+points(g.Change.High)+" more.", trim))
		}
	}
	return &sarifLog{Schema: "https://json.schemastore.org/sarif-2.1.0.json", Version: "2.1.0", Runs: []sarifRun{run}}
}

func (g *gateChange) sarif(rule int, level, message, trim string) sarifResult {
	id := sarifRules()[rule].ID
	sum := sha256.Sum256([]byte(id + "\x00" + g.Function))
	loc := sarifLocation{Logical: []sarifLogical{{Name: printable(g.Function), Kind: "function"}}}
	if g.File != "" {
		loc.Physical = &sarifPhysical{Artifact: artifactOf(g.File, trim)}
		if g.Line > 0 {
			loc.Physical.Region = &sarifRegion{StartLine: g.Line}
		}
	}
	return sarifResult{
		RuleID: id, RuleIndex: rule, Level: level, Message: sarifText{message}, Locations: []sarifLocation{loc},
		Fingerprints: map[string]string{"function/v1": hex.EncodeToString(sum[:8])},
		Properties:   map[string]float64{"before": g.Before.Value, "after": g.After.Value, "low": g.Change.Low, "high": g.Change.High, "q": g.Q},
	}
}

// artifactOf is a file's name as a URI: relative where it is below the prefix or this folder, so that a code host finds it.
func artifactOf(file, trim string) sarifArtifact {
	name := filepath.ToSlash(file)
	prefix := trim
	if prefix == "" {
		if dir, err := os.Getwd(); err == nil {
			prefix = filepath.ToSlash(dir) + "/"
		}
	}
	if rest, ok := strings.CutPrefix(name, prefix); ok && prefix != "" {
		name = strings.TrimLeft(rest, "/")
	}
	u := url.URL{Path: name}
	if strings.HasPrefix(name, "/") {
		u.Scheme = "file"
	} else if len(name) > 2 && name[1:3] == ":/" { // of Windows
		u.Scheme, u.Path = "file", "/"+name
	}
	s := u.String() // a first segment with a colon gets ./ before it
	a := sarifArtifact{URI: s}
	if u.Scheme == "" {
		a.BaseID = "%SRCROOT%"
	}
	return a
}
