package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
)

func (a *app) p2pSendFile() *cobra.Command {
	var q nodeQuestion
	var s sendingFile
	var limit byteSize
	cmd := &cobra.Command{
		Use:   "send-file --to PEER FILE",
		Short: "Send a file to a peer, and wait until it has it, whole",
		Long: `Send a file, encrypted to the peer, and wait until it is on the peer's disk and its SHA-256 is that of the file. It comes into the inbox there:
quantraband p2p files. Where the line breaks off or the peer is away it is tried again, until nothing has gone for --timeout, and goes on where
it was; so does the same command, run again after it was interrupted. The node reads the file itself, twice: it must be a regular one that does
not change meanwhile.`,
		Example: `  quantraband p2p send-file --to 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR backup.tar
  quantraband p2p send-file --to 12D3KooWQ5JRMQHGTXhPRwwENXfRU1grfMcZGuUXYVqXvUGBpeSR --rate 2MiB --json backup.tar`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if s.To == "" {
				return usagef("send-file needs --to PEER")
			}
			if q.timeout < time.Second {
				return usagef("--timeout %s: it must be a second at least", q.timeout)
			}
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			s.Path, s.Rate, s.Wait = path, int64(limit), int(q.timeout/time.Second)
			if s.Name == "" {
				s.Name = filepath.Base(path)
			}
			return a.sendFile(cmd.Context(), &q, &s)
		},
	}
	q.flags(cmd)
	f := cmd.Flags()
	f.Lookup("timeout").Usage = "how long to wait while no byte goes"
	f.StringVar(&s.To, "to", "", "id of the `peer`")
	f.StringVar(&s.Name, "name", "", "`name` that the file has there (default: its own)")
	f.Var(&limit, "rate", "`size` that goes a second at most (default: as much as goes)")
	return cmd
}

// sendFile has the node send a file, and shows how it goes.
func (a *app) sendFile(ctx context.Context, q *nodeQuestion, s *sendingFile) error {
	var bar *progress
	defer func() {
		if bar != nil {
			bar.end()
		}
	}()
	return q.each(ctx, http.MethodPost, "/v1/files", s, func(line []byte) (bool, error) {
		var st fileState
		if err := json.Unmarshal(line, &st); err != nil {
			return true, unavailablef("the node is of another version: %w", err)
		}
		if q.asJSON {
			if err := json.NewEncoder(a.stdout).Encode(st); err != nil {
				return true, err
			}
		} else {
			if bar == nil {
				bar = a.progress(plain(s.Name), st.Size)
			}
			bar.add(st.Done - bar.done)
		}
		switch {
		case st.Code != "":
			return true, faultOf("the node", st.Code, line)
		case !st.Sent:
			return false, nil
		case q.asJSON:
			return true, nil
		}
		_, err := fmt.Fprintf(a.stdout, "%s is there, %d bytes\n", plain(s.Name), st.Size)
		return true, err
	})
}

func (a *app) p2pFiles() *cobra.Command {
	var q nodeQuestion
	cmd := &cobra.Command{
		Use:   "files",
		Short: "Files that peers have sent to this node, and those on their way",
		Long: `List the inbox: files that peers have sent, where they are, and those that are on their way or were broken off. The folder is that of the
node's data, node/files, and in it one for each peer. Take files out of it, or remove them, as you like: that makes room for others
(quantraband node --inbox).`,
		Example: `  quantraband p2p files
  quantraband p2p files --json | jq -r '.[].path'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var got struct {
				Files []inboxFile `json:"files"`
			}
			if err := q.ask(cmd.Context(), http.MethodGet, "/v1/files", nil, &got); err != nil {
				return err
			}
			if q.asJSON {
				return writeJSON(a.stdout, got.Files)
			}
			if len(got.Files) == 0 {
				_, err := fmt.Fprintln(a.stdout, "no files have come")
				return err
			}
			return a.lines("TIME\tFROM\tBYTES\tSTATE\tPATH", func(line func(...any)) {
				for _, f := range got.Files {
					state := "whole"
					switch {
					case f.Of > 0:
						state = fmt.Sprintf("coming, of %d: %s", f.Of, harmless(f.Name))
					case f.Coming:
						state = "broken off"
					}
					line(f.Time.Local().Format(time.DateTime), plain(f.From), f.Size, state, harmless(f.Path))
				}
			})
		},
	}
	q.flags(cmd)
	return cmd
}
