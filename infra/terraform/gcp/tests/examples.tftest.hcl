# The example plans as a whole, with what it makes itself not known yet.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "time" {}

run "complete" {
  command = apply

  module {
    source = "./examples/complete"
  }

  variables {
    project_id   = "my-project"
    bundle       = "tests/bundle.zip"
    image        = "europe-west1-docker.pkg.dev/my-project/tools/backlog-clearer:1"
    oncall_email = "oncall@example.com"
  }

  assert {
    condition     = keys(output.job_commands) == ["audit"] && startswith(output.dispatch_commands.orders, "gcloud ")
    error_message = "the example prints no command"
  }
}
