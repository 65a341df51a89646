package wire

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// encode returns the message as one line.
func encode(message any) ([]byte, error) {
	line, err := json.Marshal(message)
	if err != nil {
		return nil, err
	}
	line = append(line, '\n')
	if len(line) > MaxMessage {
		return nil, tooLong(len(line))
	}
	return line, nil
}

// decode reads one line into message. The end of the stream before the newline is io.ErrUnexpectedEOF, before the
// first byte too: every connection owes one message each way.
func decode(r io.Reader, message any) error {
	line, err := bufio.NewReader(io.LimitReader(r, MaxMessage)).ReadBytes('\n')
	switch {
	case errors.Is(err, io.EOF) && len(line) == MaxMessage:
		return tooLong(len(line) + 1)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("cut after %d bytes: %w", len(line), io.ErrUnexpectedEOF)
	case err != nil:
		return err
	}
	return json.Unmarshal(line, message)
}

func tooLong(n int) error {
	return fmt.Errorf("message of %d bytes or more, the limit is %d", n, MaxMessage)
}
