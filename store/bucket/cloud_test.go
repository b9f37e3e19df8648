package bucket_test

// s3Classes: the server that the tests start keeps storage classes.
const s3Classes = false
