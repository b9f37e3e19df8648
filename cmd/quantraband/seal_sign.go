package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/quantra-l/quantra/seal"
	"github.com/quantra-l/quantra/seal/pgp"
)

const signatureSuffix = ".sig"

// forms are the forms of OpenPGP's signatures.
var forms = map[string]pgp.Form{"detached": pgp.Detached, "inline": pgp.Inline, "clear": pgp.Clear}

func formOf(name string, isPGP bool) (pgp.Form, error) {
	form, ok := forms[name]
	switch {
	case !ok:
		return 0, usagef("--form %q: it must be detached, inline or clear", name)
	case form != pgp.Detached && !isPGP:
		return 0, usagef("--form is for --pgp: other signatures are always in a file of their own")
	}
	return form, nil
}

func (a *app) signCommand() *cobra.Command {
	var folder keyFolder
	var pass passphrases
	var with, out, form string
	var isPGP, binary bool
	cmd := &cobra.Command{
		Use:     "sign [FILE]",
		GroupID: "main",
		Short:   "Sign a file or a pipe",
		Long: `Sign a file of any size. The signature is in FILE.sig (docs/format/signature-file.md); that of standard input goes to standard
output. With --pgp it is one of OpenPGP, detached, or with --form inline or clear together with what is signed.

` + keysHelp + `

` + passphraseHelp,
		Example: `  quantraband sign release.tar
  tar c photos | quantraband sign -k deploy -o photos.sig
  quantraband sign --pgp -k release --form clear notice.txt -o notice.txt.asc`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx := cmd.Context()
		how, err := formOf(form, isPGP)
		if err != nil {
			return err
		}
		name := "-"
		if len(args) > 0 {
			name = args[0]
		}
		if out == "" && name != "-" && how == pgp.Detached {
			out = name + signatureSuffix
		}
		if binary && !isPGP {
			return usagef("--binary is for --pgp")
		}
		sign, err := a.signer(ctx, &folder, with, &pass, isPGP, how, binary)
		if err != nil {
			return err
		}
		src, err := a.openAny(ctx, &input{}, name)
		if err != nil {
			return err
		}
		defer src.Close()
		return a.emit(out, binary, func(w io.Writer) error { return sign(w, src) })
	}
	folder.flags(cmd)
	pass.flags(cmd, false)
	f := cmd.Flags()
	f.StringVarP(&with, "key", "k", "", "sign with this `KEY` (default: the key \"default\")")
	f.BoolVar(&isPGP, "pgp", false, "make a signature of OpenPGP")
	f.StringVar(&form, "form", "detached", "`form` of a signature of OpenPGP: detached, inline or clear")
	f.BoolVar(&binary, "binary", false, "with --pgp, write no text but bytes")
	f.StringVarP(&out, "output", "o", "", "write to `file` (default: FILE.sig, or standard output)")
	return cmd
}

// signer has loaded the key, and signs.
func (a *app) signer(ctx context.Context, folder *keyFolder, with string, pass *passphrases, isPGP bool, form pgp.Form, binary bool) (func(io.Writer, io.Reader) error, error) {
	if isPGP {
		k, err := a.signerPGP(ctx, folder, with, pass)
		if err != nil {
			return nil, err
		}
		return func(w io.Writer, src io.Reader) error { return pgp.Sign(w, src, k, form, binary) }, nil
	}
	at, err := folder.find(with, keySuffix)
	if err != nil {
		return nil, err
	}
	k, err := at.load(pass.ask(ctx, at.said))
	if err != nil {
		return nil, err
	}
	return func(w io.Writer, src io.Reader) error {
		defer k.Wipe()
		s, err := k.SignFile(src)
		if err != nil {
			return err
		}
		_, err = w.Write(s.Encode())
		return err
	}, nil
}

func (a *app) verifyCommand() *cobra.Command {
	var folder keyFolder
	var by []string
	var signature, out, form string
	var isPGP bool
	cmd := &cobra.Command{
		Use:     "verify [FILE] --by KEY",
		GroupID: "main",
		Short:   "Say whether a file is signed by one of the keys you name",
		Long: `Verify the signature of a file, or of standard input, by one of the keys that --by names: 43 characters as key show says them, an
OpenSSH key, a KEY of one's own, or a file with a key a line. The key must be from elsewhere than the file: a signature
proves nothing by a key that came with it. It ends with code 1 when the signature does not verify or is by another key, and with 3
when it is no signature.

With --pgp it is one of OpenPGP by a key in a file or in the folder of keys; --form inline or clear writes what is signed, once it is verified.

` + keysHelp,
		Example: `  quantraband verify release.tar --by 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
  tar c photos | quantraband verify --signature photos.sig --by deploy
  quantraband verify --pgp --form clear notice.txt.asc --by ./release.asc`,
		Args: cobra.MaximumNArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		how, err := formOf(form, isPGP)
		if err != nil {
			return err
		}
		if len(by) == 0 {
			return usagef("verify by which key? Name it with --by: a signature proves nothing by a key that came with it")
		}
		name := "-"
		if len(args) > 0 {
			name = args[0]
		}
		in := &input{}
		if how != pgp.Detached {
			return a.verifyText(cmd.Context(), in, &folder, name, out, by)
		}
		if out != "" {
			return usagef("-o is for --form inline and clear")
		}
		if signature == "" {
			if name == "-" {
				return usagef("where is the signature of standard input? Name it with --signature")
			}
			signature = name + signatureSuffix
		}
		raw, err := a.readSmall(cmd.Context(), in, signature)
		if err != nil {
			return err
		}
		src, err := a.openAny(cmd.Context(), in, name)
		if err != nil {
			return err
		}
		defer src.Close()
		return a.verifyDetached(&folder, isPGP, src, raw, name, by)
	}
	folder.flags(cmd)
	f := cmd.Flags()
	f.StringArrayVar(&by, "by", nil, "by this `KEY`; may be repeated, one is enough")
	f.StringVarP(&signature, "signature", "s", "", "the signature is in `file` (default: FILE.sig)")
	f.BoolVar(&isPGP, "pgp", false, "it is a signature of OpenPGP")
	f.StringVar(&form, "form", "detached", "`form` of a signature of OpenPGP: detached, inline or clear")
	f.StringVarP(&out, "output", "o", "", "write what is signed to `file`, with --form inline or clear (default: standard output)")
	return cmd
}

func (a *app) verifyDetached(folder *keyFolder, isPGP bool, src io.Reader, raw []byte, name string, by []string) error {
	if isPGP {
		keys, err := folder.keysPGP(by, nil)
		if err != nil {
			return err
		}
		k, err := pgp.VerifyDetached(src, raw, keys)
		if err != nil {
			return notSigned(name, err)
		}
		_, err = fmt.Fprintf(a.stdout, "%s is signed by %s %s\n", inputName(name), k.Fingerprint(), plain(k.User()))
		return err
	}
	if bytes.HasPrefix(raw, []byte("-----BEGIN PGP ")) {
		return usagef("it is a signature of OpenPGP: add --pgp")
	}
	var allowed []seal.PublicKey
	for _, said := range by {
		keys, err := folder.publicKeys(said)
		if err != nil {
			return err
		}
		allowed = append(allowed, keys...)
	}
	s, err := seal.DecodeFileSignature(raw)
	if err != nil {
		return err
	}
	if err := s.Verify(src, allowed...); err != nil {
		return notSigned(name, err)
	}
	_, err = fmt.Fprintf(a.stdout, "%s is signed by %s\n", inputName(name), s.Key)
	return err
}

// verifyText shows what is signed when it has been verified, and says on standard error by whom.
func (a *app) verifyText(ctx context.Context, in *input, folder *keyFolder, name, out string, by []string) error {
	keys, err := folder.keysPGP(by, nil)
	if err != nil {
		return err
	}
	src, err := a.openAny(ctx, in, name)
	if err != nil {
		return err
	}
	defer src.Close()
	var k *pgp.Key
	err = a.emitWhole(out, func(w io.Writer) (err error) {
		k, err = pgp.Verify(w, src, keys)
		return err
	})
	if err != nil {
		return notSigned(name, err)
	}
	fmt.Fprintf(a.stderr, "%s is signed by %s %s\n", inputName(name), k.Fingerprint(), plain(k.User()))
	return nil
}

// notSigned names the file in an error about its signature.
func notSigned(name string, err error) error {
	if errors.Is(err, seal.ErrSignature) || errors.Is(err, seal.ErrSigner) || errors.Is(err, pgp.ErrSignature) {
		return fmt.Errorf("%s is not verified: %w", inputName(name), err)
	}
	return err
}

// inputName is how an input is called in what is said of it.
func inputName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return name
}
