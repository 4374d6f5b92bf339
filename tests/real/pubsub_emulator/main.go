// Google's own Pub/Sub test server on a port, with its counts over HTTP.
//
//	emulator GRPC_PORT HTTP_PORT
//
// GET /left?topic=projects/P/topics/T answers how many messages of a topic with one subscription
// are not acknowledged, leased ones included: what the Pub/Sub API itself does not tell.
package main

import (
	"fmt"
	"log"
	"net/http"
	"os"

	"cloud.google.com/go/pubsub/v2/pstest"
)

func main() {
	server := pstest.NewServerWithAddress("127.0.0.1:" + os.Args[1])
	http.HandleFunc("/left", func(w http.ResponseWriter, r *http.Request) {
		left := 0
		for _, message := range server.Messages() {
			if message.Topic == r.URL.Query().Get("topic") && message.Acks == 0 {
				left++
			}
		}
		fmt.Fprint(w, left)
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[2], nil))
}
