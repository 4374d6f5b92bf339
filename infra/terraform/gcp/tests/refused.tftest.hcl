# Every validation refuses what it is for.

mock_provider "google" {
  source = "./tests/mocks"
}

mock_provider "time" {}

variables {
  project_id     = "my-project"
  project_number = "123456789012"
  region         = "europe-west1"
  bundle         = "tests/bundle.zip"
  backlogs       = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9092", topic = "orders", group_id = "billing" } } }
}

# A run refuses one value of each of several variables, since each run starts a new provider process.

run "refused_1" {
  command = plan

  variables {
    # project by its number
    project_id = "123456789012"
    # project number by its id
    project_number = "my-project"
    # region is a zone
    region = "europe-west1-b"
    # name too long
    name = "backlog-clearer-of-team-a"
    # bundle is not there
    bundle = "tests/none.zip"
    # no backlog
    backlogs = {}
    # slice longer than a task waits
    timeout_seconds = 3600
    # no slice at a time
    max_parallel_slices = 0
    # more than a queue dispatches
    queue = { max_dispatches_per_second = 501 }
    # memory without unit
    drain = { memory = "2048", cpu = "1" }
    # open to the internet
    ingress = "ALLOW_ALL"
    # everyone dispatches
    dispatchers = ["allUsers"]
    # connector by its short name
    network = { connector = "brokers" }
    # receipts gone within a week
    receipts = { delete_after_days = 1 }
    # build account by its address
    build_service_account = "builder@my-project.iam.gserviceaccount.com"
    # channel by its number
    notification_channels = ["1234567890"]
  }

  expect_failures = [
    var.project_id,
    var.project_number,
    var.region,
    var.name,
    var.bundle,
    var.backlogs,
    var.timeout_seconds,
    var.max_parallel_slices,
    var.queue,
    var.drain,
    var.ingress,
    var.dispatchers,
    var.network,
    var.receipts,
    var.build_service_account,
    var.notification_channels,
  ]
}

run "refused_2" {
  command = plan

  variables {
    # backlog name with capitals
    backlogs = { Orders = { system = "kafka", options = {} } }
    # no time to settle
    timeout_seconds = 120
    # no attempt
    queue = { max_attempts = 0 }
  }

  expect_failures = [
    var.backlogs,
    var.timeout_seconds,
    var.queue,
  ]
}

run "refused_3" {
  command = plan

  variables {
    # unknown system
    backlogs = { orders = { system = "rabbitmq", options = {} } }
    # backoff upside down
    queue = { min_backoff_seconds = 600 }
  }

  expect_failures = [
    var.backlogs,
    var.queue,
  ]
}

run "refused_4" {
  command = plan

  variables {
    # unknown mode
    backlogs = { orders = { system = "kafka", options = {}, mode = "delete" } }
  }

  expect_failures = [
    var.backlogs,
  ]
}

run "refused_5" {
  command = plan

  variables {
    # unknown allowed mode
    backlogs = { orders = { system = "kafka", options = {}, allowed_modes = ["consume", "delete"] } }
  }

  expect_failures = [
    var.backlogs,
  ]
}

run "refused_6" {
  command = plan

  variables {
    # reserved variable
    secrets = { BACKLOG_CLEARER_CONFIG = { secret = "config" } }
    # schedule of no backlog
    schedules = { payments = { cron = "0 3 * * *" } }
  }

  expect_failures = [
    var.secrets,
    var.schedules,
  ]
}

run "refused_7" {
  command = plan

  variables {
    # secret without entry
    backlogs = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing", "sasl.password" = "$${env:KAFKA_PASSWORD}" } } }
  }

  expect_failures = [
    var.secrets,
  ]
}

run "refused_notify" {
  command = plan

  variables {
    # secret of a notification without entry
    backlogs = { orders = { system = "kafka", options = { bootstrap_servers = "broker:9093", topic = "orders", group_id = "billing" }, notify = "$${env:HOOK_URL}" } }
  }

  expect_failures = [
    var.secrets,
  ]
}

run "refused_8" {
  command = plan

  variables {
    # schedule with seconds
    schedules = { orders = { cron = "0 0 3 * * *" } }
  }

  expect_failures = [
    var.schedules,
  ]
}

run "refused_9" {
  command = plan

  variables {
    # schedule of no job
    schedules = { orders = { cron = "0 3 * * *", target = "job" } }
  }

  expect_failures = [
    var.schedules,
  ]
}

run "refused_10" {
  command = plan

  variables {
    # image without tag
    job = { image = "europe-west1-docker.pkg.dev/my-project/tools/backlog-clearer" }
  }

  expect_failures = [
    var.job,
  ]
}

run "refused_11" {
  command = plan

  variables {
    # job of no backlog
    job = { image = "image:1", backlogs = ["payments"] }
  }

  expect_failures = [
    var.job,
  ]
}

run "refused_12" {
  command = plan

  variables {
    # parallelism above tasks
    job = { image = "image:1", task_count = 2, parallelism = 4 }
  }

  expect_failures = [
    var.job,
  ]
}

run "refused_13" {
  command = plan

  variables {
    # too many retries
    job = { image = "image:1", max_retries = 11 }
  }

  expect_failures = [
    var.job,
  ]
}

run "refused_14" {
  command = plan

  variables {
    # job longer than a week
    job = { image = "image:1", timeout_seconds = 604801 }
  }

  expect_failures = [
    var.job,
  ]
}

run "refused_15" {
  command = plan

  variables {
    # subscription of no project
    backlogs = { events = { system = "googlepubsub", options = { subscription_id = "audit" } } }
  }

  expect_failures = [
    var.backlogs,
  ]
}

run "sizes_and_names_that_do_not_exist" {
  command = plan

  variables {
    drain = { memory = "8Gi", cpu = "1" }
    queue = { name_suffix = "2" }
    # a pair of a job
    job = { image = "image:1", memory = "16Gi", cpu = "2" }
    # the platform's
    environment = { CLOUD_RUN_TASK_INDEX = "0" }
  }

  expect_failures = [var.drain, var.queue, var.job, var.environment]
}

run "number_of_another_project" {
  command = plan

  variables {
    project_number = "210987654321"
  }

  expect_failures = [data.google_project.this]
}

run "configuration_too_long" {
  command = plan

  variables {
    backlogs = { for number in range(200) : "b${number}" => { system = "kafka", options = { bootstrap_servers = "broker:9092", topic = format("%0200d", number), group_id = "billing" } } }
  }

  expect_failures = [google_cloudfunctions2_function.this]
}

run "environment_too_long" {
  command = plan

  variables {
    environment = { OTEL_RESOURCE_ATTRIBUTES = format("%032769d", 0) }
  }

  expect_failures = [var.environment]
}
