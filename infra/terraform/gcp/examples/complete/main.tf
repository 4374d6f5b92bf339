# A Kafka backlog that is cleared every night by functions, and a large Pub/Sub backlog that a Cloud Run
# job clears when it is started by hand.

terraform {
  required_version = ">= 1.9"

  required_providers {
    google = {
      source  = "hashicorp/google"
      version = "~> 8.7"
    }
    time = {
      source  = "hashicorp/time"
      version = "~> 0.9"
    }
  }
}

variable "project_id" {
  description = "Project that everything is created in."
  type        = string
}

variable "bundle" {
  description = "Path of dist/backlog-clearer-gcp.zip."
  type        = string
}

variable "image" {
  description = "The job's image, by digest."
  type        = string
}

variable "oncall_email" {
  description = "E-mail address that is notified of a backlog that was not cleared."
  type        = string
}

provider "google" {
  project = var.project_id
  region  = "europe-west1"
}

resource "google_project_service" "this" {
  for_each = toset([
    "artifactregistry.googleapis.com", "cloudbuild.googleapis.com", "cloudfunctions.googleapis.com", "cloudscheduler.googleapis.com",
    "cloudtasks.googleapis.com", "iam.googleapis.com", "logging.googleapis.com", "monitoring.googleapis.com", "run.googleapis.com",
    "cloudresourcemanager.googleapis.com", "secretmanager.googleapis.com",
  ])

  service            = each.key
  disable_on_destroy = false # others in the project may use it
}

resource "google_monitoring_notification_channel" "oncall" {
  display_name = "On call"
  type         = "email"
  labels       = { email_address = var.oncall_email }

  depends_on = [google_project_service.this]
}

module "backlog_clearer" {
  source = "../.."

  project_id = var.project_id
  region     = "europe-west1"
  bundle     = var.bundle
  labels     = { team = "platform" }

  backlogs = {
    orders = {
      system = "kafka"
      options = {
        bootstrap_servers   = "broker-1.example.com:9093,broker-2.example.com:9093"
        topic               = "orders"
        group_id            = "billing"
        "security.protocol" = "SASL_SSL"
        "sasl.mechanisms"   = "SCRAM-SHA-512"
        "sasl.username"     = "clearer"
        "sasl.password"     = "$${env:KAFKA_PASSWORD}"
      }
      workers       = 8
      allowed_modes = ["consume", "skip"]
    }
    audit = {
      system  = "googlepubsub"
      options = { subscription_id = "projects/${var.project_id}/subscriptions/audit" }
    }
  }

  # Made by hand before the first apply, so that its value is not in the state, and since a function that reads a
  # secret without a version cannot be deployed: gcloud secrets create kafka-password --data-file=-
  secrets   = { KAFKA_PASSWORD = { secret = "kafka-password" } }
  schedules = { orders = { cron = "0 3 * * *", timezone = "Europe/Berlin", enabled = true } }

  job = {
    image      = var.image
    backlogs   = ["audit"]
    task_count = 16
  }

  # A build log, and figures and snapshots of Pub/Sub, can only be granted on the project.
  project_roles = {
    build_logs       = true
    pubsub_figures   = true
    pubsub_snapshots = true
  }

  receipts              = { delete_after_days = 400 }
  notification_channels = [google_monitoring_notification_channel.oncall.name]

  depends_on = [google_project_service.this]
}

output "dispatch_commands" {
  description = "Start a drain by hand."
  value       = module.backlog_clearer.dispatch_commands
}

output "job_commands" {
  description = "Start the job by hand."
  value       = module.backlog_clearer.job_commands
}

output "receipts" {
  description = "Where receipts are."
  value       = module.backlog_clearer.receipts
}
