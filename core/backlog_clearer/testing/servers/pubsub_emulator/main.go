// Google's own Pub/Sub test server on a port, with its counts over HTTP.
//
//	emulator GRPC_PORT HTTP_PORT [BYTES_PER_SECOND]
//
// GET /left?topic=projects/P/topics/T answers how many messages of a topic with one subscription
// are not acknowledged, leased ones included: what the Pub/Sub API itself does not report.
//
// With BYTES_PER_SECOND (0: no limit) the server is one for large backlogs: see large.go.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"
	"strconv"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	address := "127.0.0.1:" + os.Args[1]
	if len(os.Args) > 3 {
		rate, err := strconv.ParseFloat(os.Args[3], 64)
		if err != nil {
			log.Fatal(err)
		}
		serveLarge(address, rate)
	} else {
		server := pstest.NewServerWithAddress(address)
		http.HandleFunc("/left", func(w http.ResponseWriter, r *http.Request) {
			left := 0
			for _, message := range server.Messages() {
				if message.Topic == r.URL.Query().Get("topic") && message.Acks == 0 {
					left++
				}
			}
			fmt.Fprint(w, left)
		})
	}
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[2], nil))
}
