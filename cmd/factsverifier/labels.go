package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/miotfacts/miotfacts/attest"
	"github.com/miotfacts/miotfacts/label"
	"github.com/miotfacts/miotfacts/verifier"
	"github.com/miotfacts/miotfacts/verifier/web"
)

// Bounds of the folders: of one file in bytes, and of the files in one.
const (
	maxLabelFile = 64 << 10
	maxLabels    = 4096
	maxMaterials = 16 << 20 // a bill of materials of a whole distribution has some megabytes
)

// labels adds to cfg the labels, what people observed, and the own networks. A
// label that is wrong stops nothing: it is shown as what it is.
func (c *config) labels(cfg *verifier.Config, log *slog.Logger) error {
	for _, text := range c.Reference.OwnNetworks {
		cfg.OwnNetworks = append(cfg.OwnNetworks, netip.MustParsePrefix(text)) // check has parsed it
	}
	if c.Reference.Labels == "" {
		return nil
	}
	var err error
	if cfg.LabelTrust, err = c.trust(); err != nil {
		return err
	}
	if cfg.Labels, err = c.folder("reference.labels", c.Reference.Labels, maxLabelFile); err != nil {
		return err
	}
	if cfg.BOMs, err = c.folder("reference.sboms", c.Reference.SBOMs, maxMaterials); err != nil {
		return err
	}
	if cfg.Advisories, err = c.folder("reference.advisories", c.Reference.Advisories, maxMaterials); err != nil {
		return err
	}
	log.Info("labels", "folder", c.path(c.Reference.Labels), "files", len(cfg.Labels))
	if c.Reference.Observed == "" {
		return nil
	}
	files, err := c.folder("reference.observed", c.Reference.Observed, maxLabelFile)
	if err != nil {
		return err
	}
	cfg.Observed = map[attest.UEID]label.Observation{}
	for _, f := range files {
		id, err := attest.ParseUEID(strings.TrimSuffix(f.Name, ".toml"))
		if err == nil {
			err = f.Err
		}
		var o label.Observation
		if err == nil {
			o, err = label.ReadObserved(f.Data)
		}
		if err != nil {
			return fail(exitUsage, "name each file DEVICE.toml, and write it as docs/best-before.md says", fmt.Errorf("cannot use reference.observed: %s: %w", f.Name, err))
		}
		cfg.Observed[id] = o
	}
	return nil
}

// folder reads the files of a folder, hidden ones left out. One that cannot be
// read is there with the reason. A folder that is not named has none.
func (c *config) folder(key, name string, limit int64) ([]verifier.LabelFile, error) {
	if name == "" {
		return nil, nil
	}
	dir := c.path(name)
	entries, err := os.ReadDir(dir)
	if err == nil && len(entries) > maxLabels {
		err = fmt.Errorf("%d files, the limit is %d", len(entries), maxLabels)
	}
	if err != nil {
		return nil, fail(exitNeeds, "check "+key, fmt.Errorf("cannot read %s: %w", key, err))
	}
	var files []verifier.LabelFile
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.IsDir() {
			continue
		}
		f := verifier.LabelFile{Name: e.Name()}
		f.Data, f.Err = readBounded(filepath.Join(dir, e.Name()), limit)
		files = append(files, f)
	}
	return files, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d KiB", limit>>10)
	}
	return data, err
}

func newLabelsCommand() *cobra.Command {
	var p place
	var asJSON bool
	c := &cobra.Command{
		Use:   "labels",
		Short: "List the components facts labels, and what became of each",
		Long: `Lists the files of the folder reference.labels: valid, or why one does not count.
A valid label is held against what the devices of its model report; contradictions
are findings of the devices. --json prints what GET /api/labels answers.`,
		Example: `  factsverifier labels --json | jq '.[] | select(.state != "valid")'`,
		Args:    cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			data, err := p.ask(c.Context(), http.MethodGet, "/api/labels", nil)
			if err != nil {
				return err
			}
			if asJSON {
				_, err := c.OutOrStdout().Write(data)
				return err
			}
			var all []web.Label
			if err := json.Unmarshal(data, &all); err != nil {
				return fail(exitFailed, "", fmt.Errorf("cannot read the verifier's answer: %w", err))
			}
			t := tabwriter.NewWriter(c.OutOrStdout(), 0, 8, 2, ' ', 0)
			fmt.Fprintln(t, "FILE\tSTATE\tVENDOR\tMODEL\tEDITION\tWHY")
			for _, l := range all {
				fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%d\t%s\n", plain(l.File), l.State, plain(l.Vendor), plain(l.Model), l.Sequence, plain(l.Why))
			}
			return t.Flush()
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return p.flags(c)
}
