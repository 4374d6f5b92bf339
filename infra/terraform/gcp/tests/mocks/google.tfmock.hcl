mock_resource "google_service_account" {
  defaults = {
    email  = "clearer@my-project.iam.gserviceaccount.com"
    member = "serviceAccount:clearer@my-project.iam.gserviceaccount.com"
    name   = "projects/my-project/serviceAccounts/clearer@my-project.iam.gserviceaccount.com"
  }
}

mock_data "google_project" {
  defaults = {
    number = "123456789012"
  }
}

mock_data "google_storage_project_service_account" {
  defaults = {
    member = "serviceAccount:service-123456789012@gs-project-accounts.iam.gserviceaccount.com"
  }
}

mock_resource "google_monitoring_notification_channel" {
  defaults = {
    name = "projects/my-project/notificationChannels/1234567890"
  }
}
